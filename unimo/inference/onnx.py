"""UNIMO-2 as ONNX graphs: both towers and the caption decoder, and a model that answers from them by onnxruntime.

    N images · M texts · L, T tokens · R = 1 + P rows of an image · K grounded tokens · D width · V words

    image_tower.onnx       pixels (N, 3, S, S) uint8 -> image_embedding (N, D), image_hidden (N, R, D),
                           image_codes (N, K)
    text_tower.onnx        ids (M, L) framed and padded, mask (M, L) bool -> text_embedding (M, D)
    caption_decoder.onnx   hidden, codes, ids (N, T): [CLS] and the words so far -> word_logits (N, V) of the next
    onnx.json              side of the images, longest text, precision; of int8 the cosines with float32

The graphs are written over padded batches with the model's own layers and weights; no packed rows and no cache, so the
decoder reads all of a caption again for each word.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimo.data.augment import resize
from unimo.disk import disk_error
from unimo.errors import UsageError
from unimo.inference.encoding import BATCH_SIZE, ImageInput, chunks, listed, open_image
from unimo.inference.model import Pipeline
from unimo.json_files import load_json, write_json
from unimo.model.transformer import Transformer
from unimo.model.unimo2 import UNIMO2
from unimo.tokenizer import FIRST_POSITION, Tokenizer

FACTS, AGREEMENT = "onnx.json", "cosine with float32"
GRAPHS = ("image_tower", "text_tower", "caption_decoder")
PRECISIONS = ("fp32", "int8")
OPSET = 20


def _run(tower: Transformer, x: Tensor, allowed: Tensor | None = None) -> Tensor:
    """(N, L, D) -> (N, L, D). allowed: (N or 1, L, L) bool, who sees whom; None: everyone everyone."""
    for layer in tower.layers:
        attention: Any = layer.attention
        y = layer.attention_norm(x) if layer.norm_first else x  # type: ignore[operator]
        q, k, v = (
            part.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for part in attention.qkv(y).chunk(3, dim=-1)
        )
        mask = None if allowed is None else allowed[:, None]
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = layer.after(x, seen.transpose(1, 2).flatten(2))  # type: ignore[operator]
    return x if tower.final_norm is None else tower.final_norm(x)


class ImageTower(nn.Module):
    def __init__(self, model: UNIMO2):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model, dictionary = self.model, self.model.dictionary
        hidden = _run(model.image_encoder, model.patches(pixels))
        embedding = F.normalize(model.contrastive_feature(hidden[:, 0], "image"), dim=-1)
        if dictionary is None:
            return embedding, hidden, torch.zeros(pixels.shape[0], 0, dtype=torch.int64)
        voters = dictionary.positions_of(hidden[:, 1:], "image")
        votes = torch.sigmoid(dictionary.scale.clamp(1.0, 1e4) * (voters @ dictionary.entries.T)).sum(1)
        return embedding, hidden, dictionary.choose(votes)


class TextTower(nn.Module):
    def __init__(self, model: UNIMO2):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        model = self.model
        x = model.words(ids, FIRST_POSITION + torch.arange(ids.shape[1], device=ids.device))
        feature = model.contrastive_feature(_run(model.text_encoder, x, mask[:, None])[:, 0], "text")
        raw = model.released.raw_text_score and model.projections() is None
        return feature if raw else F.normalize(feature, dim=-1)


class CaptionDecoder(nn.Module):
    """What is written sees the image, the ground and the words before it; these do not see it (spec unimo2 §2.5)."""

    def __init__(self, model: UNIMO2):
        super().__init__()
        self.model = model

    def forward(self, hidden: Tensor, codes: Tensor, ids: Tensor) -> Tensor:
        model, length = self.model, ids.shape[1]
        words = model.words(ids, FIRST_POSITION + torch.arange(length, device=ids.device))
        words = _run(model.text_encoder, words, _sees_back(length, 0, ids.device))
        parts = [hidden, words]
        if model.dictionary is not None:
            assert model.ground_norm is not None
            ground = F.embedding(codes, model.dictionary.entries)
            if model.grounding_positions:
                places = FIRST_POSITION + torch.arange(codes.shape[1], device=codes.device)
                ground = ground + model.words.position(places)
            parts.insert(1, model.ground_norm(ground))
        before = hidden.shape[1] + codes.shape[1]
        x = _run(model.grounded_encoder, torch.cat(parts, 1), _sees_back(before + length, before, ids.device))
        return model.word_logits(x[:, -1])


def _sees_back(length: int, before: int, device: torch.device) -> Tensor:
    """(1, length, length) bool: itself, what is earlier, and all of the first `before`."""
    place = torch.arange(length, device=device)
    return ((place[None, :] <= place[:, None]) | (place[None, :] < before))[None]


# ---- export


def export(
    pipeline: Pipeline,
    folder: str | Path,
    *,
    precision: str = "fp32",
    images: Sequence[ImageInput] | None = None,
    texts: Sequence[str] | None = None,
) -> dict[str, int]:
    """Writes the graphs into a new folder; returns the bytes of each file.

    precision: fp32; or int8, whose embeddings are compared with those of float32 on these images and texts, or on
    random ones. Raises UsageError for UNIMO, for one-to-one grounding, for a folder that exists, and without the extra
    `onnx`.
    """
    model, folder = pipeline.model, Path(folder)
    if precision not in PRECISIONS:
        raise UsageError("unknown precision", where="precision", got=precision, expected=", ".join(PRECISIONS))
    if precision == "fp32" and (images or texts):
        do = "precision=int8, or no samples"
        raise UsageError("samples are for what int8 loses", where="precision", got=precision, expected="int8", do=do)
    if not isinstance(model, UNIMO2) or (model.dictionary is not None and model.dictionary.method != "topk"):
        got = "grounding_method=normal" if isinstance(model, UNIMO2) else "UNIMO, which sees regions"
        raise UsageError("this model cannot be exported", got=got, expected="UNIMO-2 with the most voted entries")
    if folder.exists():
        raise UsageError("the folder exists", where=folder, expected="a new one", do="choose another name")
    if pipeline.device.type != "cpu" or pipeline.dtype != torch.float32:
        got, expected = f"{pipeline.device}, {pipeline.dtype}", 'unimo.load(..., device="cpu", precision="fp32")'
        raise UsageError("graphs are written in float32 on the CPU", got=got, expected=expected)
    _require("onnxscript")
    partial = folder.with_name(f"{folder.name}.partial.{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        _write_graphs(model, pipeline, partial)
        if precision == "int8":
            _make_int8(partial, images, texts)
        partial.replace(folder)
    except OSError as fault:
        raise disk_error(fault, folder) from fault
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def _write_graphs(model: UNIMO2, pipeline: Pipeline, folder: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # else it warns of torchvision, which is not needed
    n, m, batch = torch.export.Dim("N"), torch.export.Dim("M"), 2
    length, words = (torch.export.Dim(name, max=pipeline.max_length) for name in ("L", "T"))
    large = 4 * sum(p.numel() for p in model.parameters()) > 1 << 30  # a graph file ends at 2 GiB
    pixels = torch.zeros(batch, 3, model.pixels, model.pixels, dtype=torch.uint8)
    ids = torch.full((batch, 3), 4)
    with torch.inference_mode():
        _, hidden, codes = ImageTower(model)(pixels)
    hidden, codes = hidden.clone(), codes.clone()
    written = {0: n}, {0: n}, {0: n, 1: words}
    for name, graph, given, shapes, outputs in (
        ("image_tower", ImageTower(model), (pixels,), ({0: n},), ["image_embedding", "image_hidden", "image_codes"]),
        ("text_tower", TextTower(model), (ids, ids > 0), ({0: m, 1: length},) * 2, ["text_embedding"]),
        ("caption_decoder", CaptionDecoder(model), (hidden, codes, ids), written, ["word_logits"]),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.eval(), given, folder / f"{name}.onnx", dynamo=True, opset_version=OPSET, verbose=False,
                output_names=outputs, dynamic_shapes=shapes, external_data=large, optimize=True,
            )  # fmt: skip
    write_json(folder / FACTS, {"side": model.pixels, "max_length": pipeline.max_length, "precision": "fp32"})


def _make_int8(folder: Path, images: Sequence[ImageInput] | None, texts: Sequence[str] | None) -> None:
    """In place."""
    from unimo.inference.quantization import agreement, quantize

    exact = folder / "float32"
    exact.mkdir()
    for path in [path for path in folder.iterdir() if path != exact]:
        path.replace(exact / path.name)
    facts = load_json(exact / FACTS) | {"precision": "int8"}
    for name in GRAPHS:
        quantize(exact / f"{name}.onnx", folder / f"{name}.onnx")
    write_json(folder / FACTS, facts)
    facts[AGREEMENT] = agreement(OnnxModel(exact), OnnxModel(folder), images, texts)
    write_json(folder / FACTS, facts)
    shutil.rmtree(exact)


def _require(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as fault:
        raise UsageError("ONNX needs its extra", got=f"no {module}", do="pip install 'unimo[onnx]'") from fault


# ---- answers from the graphs


class OnnxModel:
    """encode_image, encode_text, similarity and greedy captions of an exported folder, by onnxruntime.

    providers: of onnxruntime, such as CUDAExecutionProvider; None: the CPU.
    """

    def __init__(self, folder: str | Path, *, providers: Sequence[str] | None = None):
        runtime, folder = _require("onnxruntime"), Path(folder)
        if not (folder / FACTS).is_file():
            raise UsageError("not an exported model", where=folder, expected=f"a folder with {FACTS}: unimo export")
        facts = load_json(folder / FACTS)
        self.side, self.max_length, self.tokenizer = facts["side"], facts["max_length"], Tokenizer.default()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # else one for every core that the machine has
        self.image_tower, self.text_tower, self.caption_decoder = (
            runtime.InferenceSession(folder / f"{name}.onnx", options, list(providers or ["CPUExecutionProvider"]))
            for name in GRAPHS
        )
        self.decoder_inputs = [one.name for one in self.caption_decoder.get_inputs()]  # without a dictionary, no codes

    def encode_image(self, images: Iterable[ImageInput], *, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """(N, D) float32 embeddings, L2-normalised."""
        return np.concatenate([self._see(some)[0] for some in chunks(listed(images, "image"), batch_size)])

    def encode_text(self, texts: Iterable[str], *, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """(M, D) float32 embeddings, L2-normalised; long texts are cut."""
        found = []
        for some in chunks(listed(texts, "text"), batch_size):
            rows = [self.tokenizer.encode(text)[: self.max_length - 2] for text in some]
            framed = [[self.tokenizer.cls, *row, self.tokenizer.sep] for row in rows]
            lengths = np.array([len(row) for row in framed])
            mask = np.arange(lengths.max()) < lengths[:, None]
            ids = np.full(mask.shape, self.tokenizer.pad, np.int64)
            ids[mask] = np.concatenate(framed)
            found += self.text_tower.run(None, {"ids": ids, "mask": mask})
        return np.concatenate(found)

    def similarity(self, images: Iterable[ImageInput], texts: Iterable[str]) -> np.ndarray:
        """(N, M) cosines of every image with every text."""
        return self.encode_image(images) @ self.encode_text(texts).T

    def caption(self, images: Iterable[ImageInput], *, max_length: int = 50, batch_size: int = BATCH_SIZE) -> list[str]:
        """One sentence per image, of the likeliest next word each time."""
        sentences: list[str] = []
        special = self.tokenizer
        blocked = [special.cls, special.pad, special.unk, special.mask]
        for some in chunks(listed(images, "image"), batch_size):
            _, hidden, codes = self._see(some)
            ids = np.full((len(some), 1), special.cls, np.int64)
            ended = np.zeros(len(some), bool)
            for _ in range(min(max_length, self.max_length - 1)):
                given = {"hidden": hidden, "codes": codes, "ids": ids}
                (logits,) = self.caption_decoder.run(None, {name: given[name] for name in self.decoder_inputs})
                logits[:, blocked] = -np.inf
                best = np.where(ended, special.sep, logits.argmax(-1))
                ids, ended = np.concatenate([ids, best[:, None]], 1), ended | (best == special.sep)
                if ended.all():
                    break
            for row in ids[:, 1:].tolist():
                end = row.index(special.sep) if special.sep in row else len(row)
                sentences.append(" ".join(special.decode(row[:end]).split()))
        return sentences

    def _see(self, images: Sequence[ImageInput]) -> list[np.ndarray]:
        pixels = np.stack([resize(open_image(image), self.side) for image in images]).transpose(0, 3, 1, 2)
        return self.image_tower.run(None, {"pixels": np.ascontiguousarray(pixels)})
