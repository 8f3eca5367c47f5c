"""MNLI: does a sentence follow from another, contradict it, or neither?

source    spec unimo §6.2, unimo2 §6.4
data      GLUE's MNLI (392,702 pairs; dev matched and mismatched)
command   unimo sweep mnli --init-from RUN --train MNLI/train.tsv --dev MNLI/dev_matched.tsv --out runs/mnli --seeds 5
          --grid optimizer.lr=1e-5,2e-5,3e-5 --grid batch_size=16,32
hardware  published: 8 V100, 44 hours for base and the whole grid
expect    accuracy on dev m/mm, published: UNIMO 86.8/86.7 base, 89.8/89.5 large; UNIMO-2 87.5/87.5

Give dev_mismatched.tsv as --test. UNIMO-2's own script runs 20 epochs of 8 x 16 (spec unimo2 §6.3).
"""

from unimo.finetune.released import glue

mnli = glue("mnli")
