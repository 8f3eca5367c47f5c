"""MRPC: do two sentences of news say the same?

source    spec unimo §6.2, unimo2 §6.4
data      GLUE's MRPC (3,668 / 408 pairs)
command   unimo sweep mrpc --init-from RUN --train MRPC/train.tsv --dev MRPC/dev.tsv --out runs/mrpc --seeds 5 --grid
          optimizer.lr=1e-5,2e-5,3e-5 --grid batch_size=16,32
hardware  published: nothing; the recipe is that of MNLI
expect    the papers report nothing
"""

from unimo.finetune.released import glue

mrpc = glue("mrpc", metrics=("accuracy", "f1"), positive="1")
