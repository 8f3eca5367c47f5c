"""SST-2: is a sentence of a film review positive?

source    spec unimo §6.2, unimo2 §6.4
data      GLUE's SST-2 (67,349 / 872 sentences)
command   unimo sweep sst2 --init-from RUN --train SST-2/train.tsv --dev SST-2/dev.tsv --out runs/sst2 --seeds 5
          --grid optimizer.lr=1e-5,2e-5,3e-5 --grid batch_size=16,32
hardware  published: 8 V100, 9 hours for base and the whole grid
expect    accuracy on dev, published: UNIMO 95.1 base, 96.8 large; UNIMO-2 94.7
"""

from unimo.finetune.released import glue

sst2 = glue("sst2")
