"""What a trained model can be asked, from raw images and strings: the object `unimo.load` returns.

N images · M texts · D width

model = unimo.load("runs/scenes")
model.similarity(["dog.jpg"], ["a dog", "a cat"])      # (1, 2) cosines
model.caption(["dog.jpg"])                             # ["a dog runs on the beach"]
model.fill_mask("a red circle is [MASK] of a square")  # [(" left", 0.91), ...]

encoder.py, encoded.py    raw inputs through their towers, and what is kept of them
matcher.py                how well an image and a text fit
writer.py                 captions and other texts
mask_filler.py            words at a blank
classifier.py             classes and numbers, by names alone or by the head of a fine-tuned model
prompts.py                templates of class names
answerer.py               all of it in one object
"""

from __future__ import annotations

from unimo.inference.encoded import EncodedImages, EncodedTexts
from unimo.inference.encoding import ImageInput
from unimo.inference.model import Pipeline, identity, load
from unimo.inference.prompts import PROMPTS

__all__ = ["PROMPTS", "EncodedImages", "EncodedTexts", "ImageInput", "Pipeline", "identity", "load"]
