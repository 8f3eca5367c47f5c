"""SNLI: does a sentence follow from a caption, contradict it, or neither? In words alone.

source    spec unimo §6.2, unimo2 §6.4
data      SNLI 1.0 (549,367 pairs; rows without a majority label are left out)
command   unimo sweep snli --init-from RUN --train snli_1.0_train.jsonl --dev snli_1.0_dev.jsonl --out runs/snli
          --seeds 5 --grid optimizer.lr=1e-5,2e-5,3e-5 --grid batch_size=16,32
hardware  published: nothing; the recipe is that of MNLI
expect    the papers report nothing
"""

from unimo.finetune.released import glue

snli = glue("snli")
