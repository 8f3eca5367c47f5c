"""Int8 graphs: smaller, near float32, and what they lose is written beside them."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
import torch
from test_onnx import TEXTS
from tiny_unimo2 import lively_model, random_images

from unimo.cli import main
from unimo.errors import UsageError
from unimo.inference import Pipeline
from unimo.inference.onnx import GRAPHS, OnnxModel, export
from unimo.inference.quantization import RANDOM
from unimo.json_files import load_json
from unimo.tokenizer import Tokenizer

NEAR = 0.998  # cosine; at least 0.9991 was measured here, at least 0.9998 on images and texts of a trained model
# Of the bytes in float32. The decoder holds its table of words twice, as it is read and as it is multiplied by.
SMALLER = {"image_tower": 0.5, "text_tower": 0.3, "caption_decoder": 0.55}
IMAGES = [image.permute(1, 2, 0).numpy() for image in random_images(100, side=23)]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """Matrices with the spread of trained ones: inputs and outputs of a map are about as large."""
    model = lively_model(vocabulary=Tokenizer.vocab_size, width=64)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.4)
    return Pipeline(model, precision="fp32")


@pytest.fixture(scope="module")
def folders(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    export(pipeline, folder / "fp32")
    export(pipeline, folder / "int8", precision="int8", images=IMAGES, texts=TEXTS)
    return folder / "fp32", folder / "int8"


@pytest.fixture(scope="module")
def both(folders):
    return [OnnxModel(folder) for folder in folders]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", a, b) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def test_every_map_is_int8_and_every_graph_smaller(folders):
    for name in GRAPHS:
        exact, int8 = (onnx.load(folder / f"{name}.onnx").graph for folder in folders)
        counts = []
        for graph in (exact, int8):
            weights = {one.name for one in graph.initializer if len(one.dims) == 2}
            maps = [node for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights]
            counts.append((len(maps), sum(node.op_type == "MatMulInteger" for node in graph.node)))
        assert counts[0][0] > 4 and counts == [(counts[0][0], 0), (0, counts[0][0])]
        large, small = ((folder / f"{name}.onnx").stat().st_size for folder in folders)
        assert small < SMALLER[name] * large
    assert {path.name for path in folders[1].iterdir()} == {path.name for path in folders[0].iterdir()}


def test_embeddings_are_near_those_of_float32_and_the_loss_stands_beside_them(folders, both):
    exact, int8 = both
    facts = load_json(folders[1] / "onnx.json")
    assert facts["precision"] == "int8" and load_json(folders[0] / "onnx.json")["precision"] == "fp32"
    for kind, found in (
        ("image", cosines(exact.encode_image(IMAGES), int8.encode_image(IMAGES))),
        ("text", cosines(exact.encode_text(TEXTS), int8.encode_text(TEXTS))),
    ):
        stated = facts["cosine with float32"][kind]
        assert NEAR < found.min() < 0.99999 and stated["n"] == 100 and stated["of"] == "given"
        assert stated["lowest"] == pytest.approx(found.min(), abs=2e-5)
        assert stated["mean"] == pytest.approx(found.mean(), abs=2e-5)


def test_what_else_is_in_the_batch_changes_little(both):
    _, int8 = both
    assert cosines(int8.encode_image(IMAGES, batch_size=1), int8.encode_image(IMAGES)).min() > NEAR
    assert cosines(int8.encode_text(TEXTS, batch_size=1), int8.encode_text(TEXTS)).min() > NEAR


def test_the_decoder_still_writes(both):
    """Scores of the next word, and captions that begin alike."""
    _, hidden, codes = both[0]._see(IMAGES)
    given = {"hidden": hidden, "codes": codes, "ids": np.random.default_rng(0).integers(4, 2000, (100, 6))}
    logits = [model.caption_decoder.run(None, given)[0] for model in both]
    assert cosines(*logits).min() > NEAR
    first = [[sentence[:3] for sentence in model.caption(IMAGES, max_length=3)] for model in both]
    assert sum(a == b for a, b in zip(*first)) > 60 and len({*first[0]}) > 1


def test_the_command_says_what_is_lost_and_on_what_it_was_measured(pipeline, tmp_path, monkeypatch, capsys):
    options = ["--precision", "int8", "--texts", "a red dog", "two cats"]
    monkeypatch.setattr("unimo.inference.load", lambda model, **options: pipeline)
    monkeypatch.setattr(sys, "argv", ["unimo", "export", "M", str(tmp_path / "out"), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().out
    assert not ended.value.code and "mean of 2 given texts" in said and f"mean of {RANDOM} random images" in said
    facts = load_json(tmp_path / "out/onnx.json")["cosine with float32"]
    assert all(f"float32: {facts[kind]['lowest']} lowest" in said for kind in ("image", "text"))


def test_what_does_not_fit_is_refused(pipeline, tmp_path):
    with pytest.raises(UsageError, match="fp32, int8"):
        export(pipeline, tmp_path / "out", precision="int4")
    with pytest.raises(UsageError, match="samples are for what int8 loses"):
        export(pipeline, tmp_path / "out", texts=["a dog"])
    assert not list(tmp_path.iterdir())
