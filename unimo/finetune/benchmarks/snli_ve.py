"""SNLI-VE: does a sentence follow from an image, contradict it, or neither?

source    spec unimo §6.7, §6.8, unimo2 §6.4
data      SNLI-VE (529,527 / 17,858 / 17,901 pairs), images of Flickr30k
command   unimo finetune snli_ve --init-from RUN --train snli_ve_train.jsonl --dev snli_ve_dev.jsonl --test
          snli_ve_test.jsonl --images flickr30k-images --out runs/snli_ve
hardware  published: 16 V100, 16 hours (base)
expect    accuracy on val/test, published: UNIMO 80.00/79.10 base, 81.11/80.63 large; UNIMO-2 81.97/81.48

The image is the premise: rows with the premise's words as well are refused, for with them a model can answer without
looking. Head: the poolers' sum, 2048, dropout, 3. Adversarial training as released; UNIMO-2 sees pixels, which cannot
be perturbed: --set adversarial.sides=text, or --set adversarial=none as the specification advises to begin with.
"""

from unimo.finetune.released import about_images, adam
from unimo.objectives.adversarial import Adversarial

snli_ve = about_images(
    "snli_ve",
    1e-5,
    read={"max_length": 512, "hidden": 2048},
    adversarial=Adversarial(steps=4, lr=0.05, initial_norm=0.4, max_norm=0.4),
    batch_size=192,
    epochs=10.0,
    optimizer=adam(1e-5, beta2=0.999),
)
