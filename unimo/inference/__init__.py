"""Inference from raw images and strings: the object that `unimo.load` returns.

N images · M texts · D width

model = unimo.load("runs/scenes")
model.similarity(["dog.jpg"], ["a dog", "a cat"])      # (N, M) cosines
model.caption(["dog.jpg"])                             # N sentences
model.fill_mask("a red circle is [MASK] of a square")  # [(token, probability), ...]

encoding.py         raw inputs through their towers
matching.py         image-text matching after fusion
generation.py       captions and other texts
mask_filling.py     tokens at a [MASK]
classification.py   the head of a fine-tuned model; templates of zero-shot classification
model.py            the object made of these parts
"""

from __future__ import annotations

from unimo.inference.classification import PROMPTS
from unimo.inference.encoding import BATCH_SIZE, EncodedImages, EncodedTexts, ImageInput
from unimo.inference.model import Pipeline, identity, load

__all__ = ["BATCH_SIZE", "PROMPTS", "EncodedImages", "EncodedTexts", "ImageInput", "Pipeline", "identity", "load"]
