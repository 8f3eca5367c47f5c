"""A tiny random model, and a model whose answers are known in advance."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from unimo.inference import EncodedImages, EncodedTexts, Pipeline
from unimo.model.build import ModelSettings, build
from unimo.tokenizer import Tokenizer

SETTINGS = ModelSettings(
    "tiny", width=32, heads=2, image_depth=1, text_depth=1, grounded_depth=1, image_size=32, patch=8, positions=66,
    dictionary=32, chosen=4,
)  # fmt: skip


def random_pipeline(**changes) -> Pipeline:
    """One layer per tower, random weights, full precision."""
    torch.manual_seed(0)
    model = build(replace(SETTINGS, **changes))
    with torch.no_grad():  # as wide apart as trained embeddings are
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return Pipeline(model, precision="fp32")


class Planted:
    """Embeddings and matches as a test wants them: by the red value of an image, by the text itself.

    images: red -> vector; texts: text -> vector; true: the (red, text) pairs that match.
    """

    def __init__(self, images: dict[int, list[float]], texts: dict[str, list[float]], true: set[tuple[int, str]]):
        self.tokenizer, self.facts, self.sees_regions = Tokenizer.default(), {}, False
        self.images, self.known, self.true, self.matched = images, texts, true, 0

    def encode_images(self, images, batch_size=64) -> EncodedImages:
        reds = [Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0))[0] for data in images]
        embedding = torch.tensor([self.images[red] for red in reds], dtype=torch.float32)
        return EncodedImages(torch.tensor(reds)[:, None, None], embedding, None)

    def encode_texts(self, texts, batch_size=64) -> EncodedTexts:
        embedding = torch.tensor([self.known[text] for text in texts], dtype=torch.float32)
        return EncodedTexts(list(texts), torch.zeros(0), embedding, None)

    def match(self, images, texts, pairs, batch_size=64) -> np.ndarray:
        self.matched += len(pairs)
        return np.array(
            [float((int(images.hidden[i, 0, 0]), texts.texts[t]) in self.true) for i, t in pairs], np.float32
        )

    def caption_log_likelihood(self, images, texts, pairs, batch_size=64) -> np.ndarray:
        """The other way round than `match`; "tie" texts are all impossible."""
        said = texts.texts
        true = [(int(images.hidden[i, 0, 0]), said[t]) in self.true for i, t in pairs]
        return np.array([-np.inf if said[t][-1] == "2" else -3.0 - fits for fits, (_, t) in zip(true, pairs)])

    def match_by_likelihood(self, images, texts, pairs, beside, batch_size=64) -> np.ndarray:
        """As `match`, but of texts with an odd number the other way round."""
        odd = np.array([int(texts.texts[t][-1]) % 2 for _, t in pairs])
        true = [(int(images.hidden[i, 0, 0]), texts.texts[t]) in self.true for i, t in pairs]
        return np.where(odd == 1, -np.array(true, float), np.array(true, float))

    def class_embeddings(self, names, prompts) -> torch.Tensor:
        return torch.tensor([self.known[name] for name in names], dtype=torch.float32)

    def caption(self, images, *, max_length, batch_size=64) -> list[str]:
        return [f"a picture of {int(red)}" for red in images.hidden[:, 0, 0]]


def write_pairs(folder: Path, captions: list[list[str]]) -> tuple[str]:
    """Plain images whose red value is their number, with captions, as a folder and a .jsonl."""
    folder.mkdir(parents=True)
    lines = []
    for red, texts in enumerate(captions):
        Image.new("RGB", (16, 16), (red, 100, 100)).save(folder / f"{red:03d}.png")
        lines.append(json.dumps({"image": f"{red:03d}.png", "captions": texts}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return (str(folder),)


tools = SimpleNamespace(Planted=Planted, write_pairs=write_pairs, random_pipeline=random_pipeline)
