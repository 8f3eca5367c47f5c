"""CoLA: is a sentence of English well formed?

source    spec unimo §6.2, unimo2 §6.4
data      GLUE's CoLA (8,551 / 1,043 sentences)
command   unimo sweep cola --init-from RUN --train CoLA/train.tsv --dev CoLA/dev.tsv --out runs/cola --seeds 5 --grid
          optimizer.lr=1e-5,2e-5,3e-5 --grid batch_size=16,32
hardware  published: 4 V100, 2 hours for base and the whole grid
expect    Matthews correlation on dev, published: UNIMO 65.4 base, 68.5 large; UNIMO-2 62.1
"""

from unimo.finetune.released import glue

cola = glue("cola", metrics=("matthews", "accuracy"), positive="1")
