"""Inference from raw images and strings: the object that `unimo.load` returns.

N images · M texts · D width

model = unimo.load("runs/scenes")
model.similarity(["dog.jpg"], ["a dog", "a cat"])      # (N, M) cosines
model.caption(["dog.jpg"])                             # N sentences
model.fill_mask("a red circle is [MASK] of a square")  # [(token, probability), ...]

encoding.py         raw inputs through their towers; encoded.py: what is kept of them
matching.py         image-text matching after fusion
generation.py       captions and other texts
mask_filling.py     tokens at a [MASK]
classification.py   classes by their names, or by the head of a fine-tuned model; prompts.py: templates
model.py            all of it in one object
"""

from __future__ import annotations

from unimo.inference.encoded import EncodedImages, EncodedTexts
from unimo.inference.encoding import ImageInput
from unimo.inference.model import Pipeline, identity, load
from unimo.inference.prompts import PROMPTS

__all__ = ["PROMPTS", "EncodedImages", "EncodedTexts", "ImageInput", "Pipeline", "identity", "load"]
