"""Exported graphs answer as the model does, whatever the batch and the length."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from tiny_unimo import lively_unimo
from tiny_unimo2 import lively_model, random_images

from unimo.decoding.decoder import Given, UncachedDecoder
from unimo.errors import UsageError
from unimo.inference import Pipeline
from unimo.inference.onnx import OnnxModel, export
from unimo.speed.onnx import CALLS, compare_graphs
from unimo.tokenizer import Tokenizer

WORDS = ["a", "red", "circle", "is", "left", "of", "the", "two", "blue", "squares", "and", "one", "dog", "runs"]
TEXTS = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(i % 37)) for i in range(100)]


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [image.permute(1, 2, 0).numpy() for image in random_images(100, side=23)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    pipeline = Pipeline(lively_model(vocabulary=Tokenizer.vocab_size), precision="fp32")
    folder = tmp_path_factory.mktemp("onnx") / "model"
    sizes = export(pipeline, folder)
    assert sizes.keys() == {"image_tower.onnx", "text_tower.onnx", "caption_decoder.onnx", "onnx.json"}
    with pytest.raises(UsageError, match="exists"):
        export(pipeline, folder)
    return pipeline, OnnxModel(folder)


def test_they_are_timed_against_torch_in_turns(both):
    pipeline, graphs = both
    rows = list(compare_graphs({"fp32": graphs}, {"torch float32": pipeline}, rounds=1))
    assert [row["what"] for row in rows] == list(CALLS) and {row["against"] for row in rows} == {"torch float32"}
    assert all(row["speed-up"]["low"] > 0 and row["milliseconds, graphs"]["low"] > 0 for row in rows)


def test_graphs_take_the_threads_that_torch_takes(both):
    threads = both[1].image_tower.get_session_options().intra_op_num_threads
    assert threads == torch.get_num_threads() == 1


@pytest.mark.parametrize("batch_size", [1, 33])
def test_embeddings_are_the_models_own(both, images, batch_size):
    pipeline, graphs = both
    for ours, theirs in (
        (pipeline.encode_image(images), graphs.encode_image(images, batch_size=batch_size)),
        (pipeline.encode_text(TEXTS), graphs.encode_text(TEXTS, batch_size=batch_size)),
    ):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)
    assert len({len(text) for text in TEXTS}) > 30


def test_captions_are_the_models_own_word_by_word(both, images):
    """Logits after every prefix of 100 captions of varied length, and the captions themselves."""
    pipeline, graphs = both
    encoded, words = pipeline.encode_images(images), torch.randint(4, 2000, (100, 9))
    _, hidden, codes = graphs._see(images)
    assert (codes == pipeline.encoder.codes(encoded, None)).all()
    decoder = UncachedDecoder(pipeline.model, Given(encoded.hidden))
    last = torch.zeros(100, dtype=torch.int64)
    for place in range(9):
        expected = decoder.advance(last, torch.arange(100)).numpy()
        ids = np.concatenate([np.zeros((100, 1), np.int64), words[:, :place].numpy()], 1)
        (found,) = graphs.caption_decoder.run(None, {"hidden": hidden, "codes": codes, "ids": ids})
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1.0, float(np.abs(expected).max())))
        last = words[:, place]
    assert graphs.caption(images[:20], max_length=7) == pipeline.caption(images[:20], max_length=7)


def test_what_cannot_be_exported_says_why(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="UNIMO, which sees regions"):
        export(Pipeline(lively_unimo(vocabulary=Tokenizer.vocab_size), precision="fp32"), tmp_path / "out")
    with pytest.raises(UsageError, match="float32 on the CPU"):
        export(Pipeline(lively_model(vocabulary=Tokenizer.vocab_size), precision="bf16"), tmp_path / "out")
    with pytest.raises(UsageError, match="unimo export"):
        OnnxModel(tmp_path)
    pipeline = Pipeline(lively_model(vocabulary=Tokenizer.vocab_size), precision="fp32")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"unimo\[onnx\]"):
        export(pipeline, tmp_path / "out")
    assert not list(tmp_path.iterdir())
