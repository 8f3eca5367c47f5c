"""RTE: does a sentence follow from another?

source    spec unimo §6.2, unimo2 §6.4
data      GLUE's RTE (2,490 / 277 pairs)
command   unimo sweep rte --init-from RUN --train RTE/train.tsv --dev RTE/dev.tsv --out runs/rte --seeds 5 --grid
          optimizer.lr=1e-5,2e-5,3e-5 --grid batch_size=16,32
hardware  published: nothing; the recipe is that of MNLI
expect    the papers report nothing
"""

from unimo.finetune.released import glue

rte = glue("rte")
