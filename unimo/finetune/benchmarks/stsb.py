"""STS-B: how alike do two sentences mean, 0 to 5?

source    spec unimo §6.3, unimo2 §6.4
data      GLUE's STS-B (5,749 / 1,500 pairs)
command   unimo sweep stsb --init-from MNLI_RUN --train STS-B/train.tsv --dev STS-B/dev.tsv --out runs/stsb --seeds 5
          --grid optimizer.lr=1e-5,2e-5,3e-5 --grid batch_size=16,32
hardware  published: 8 V100, 2 hours for base and the whole grid
expect    Pearson correlation on dev, published: UNIMO 91.0 base, 92.6 large; UNIMO-2 91.2

Starts from the model fine-tuned on MNLI, without its answers. Checkpoints are chosen by the mean of both
correlations. The score is learnt as it stands, by the mean squared error.
"""

from unimo.finetune.released import glue

stsb = glue("stsb", metrics=("pearson_spearman", "pearson", "spearman"), kind="regression")
