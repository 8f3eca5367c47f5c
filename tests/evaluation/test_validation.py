"""A run on one's own data: a part is held out, never trained on, scored while it trains, and its best is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import bits_of, log_of, quiet, tiny

import unimo
from unimo.config import override
from unimo.data.held_out import HeldOut
from unimo.errors import DataError
from unimo.evaluation.compare import compare
from unimo.evaluation.evaluate import evaluate
from unimo.evaluation.plan import EvaluationData
from unimo.evaluation.validation import validator
from unimo.train import loop as T
from unimo.train.data import held_out, open_corpora
from unimo.train.pretraining import Pretraining
from unimo.train.settings import Run

FAST = EvaluationData(shortlist=2, captioned=4, masked=8)
COLOURS = ("red", "green", "blue", "white", "black")


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """Forty pairs in a .jsonl beside their images, forty texts, and the same images without captions."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    (folder / "pairs").mkdir()
    lines = []
    for i in range(40):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pairs" / f"{i:02d}.png")
        lines.append({"image": f"{i:02d}.png", "captions": [f"a {COLOURS[i % 5]} thing, number {i}"]})
    (folder / "pairs" / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "texts").mkdir()
    texts = [{"text": f"in the year {1900 + i} a {COLOURS[i % 5]} house was built near the river"} for i in range(40)]
    (folder / "texts" / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in texts))
    (folder / "images").mkdir()
    for file in sorted((folder / "pairs").glob("*.png")):
        shutil.copy(file, folder / "images" / f"again-{file.name}")
    return folder


def run_on(own: Path, *changes: str) -> Run:
    return tiny(own, "data.val_fraction=0.2", "val_steps=2", "restrict_vocabulary=true", *changes)


def trained(run: Run, out: Path, **options) -> Path:
    return T.train(Pretraining(run, validator), out, say=quiet, **options)


@pytest.fixture(scope="module")
def finished(own, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    trained(run_on(own), out)
    return out


def test_held_out_samples_never_enter_training(own, tmp_path):
    """Neither as pairs, nor as texts, nor as the same images without captions."""
    run = run_on(own)
    job = Pretraining(run, validator)
    job.open(tmp_path, quiet)
    out = {kind: {job.corpora[kind].keys[int(i)] for i in items} for kind, items in job.held_out.items()}
    assert {kind: len(keys) for kind, keys in out.items()} == {"pairs": 8, "texts": 8, "images": 8}
    assert {key.removeprefix("again-") for key in out["images"]} == out["pairs"]
    stream, seen = job.stream(0, 1), {"pairs": set(), "texts": set(), "images": set()}
    for step in range(120):
        keys = stream.batch(step).keys
        seen["pairs"] |= {name.rpartition("#")[0] for name in keys["pairs"]}
        seen["images"] |= set(keys["images"])
        seen["texts"] |= {name.rpartition("[")[0] for kind in ("masked", "fragments") for name in keys.get(kind, ())}
    for kind, keys in seen.items():
        assert keys == set(job.corpora[kind].keys) - out[kind], kind


def test_the_split_depends_on_keys_alone(own, tmp_path):
    run = run_on(own)
    corpora = open_corpora(run, tmp_path, quiet)
    split = held_out(run, corpora)
    assert all((held_out(override(run, ["seed=9"]), corpora)[kind] == items).all() for kind, items in split.items())
    for more in (["data.val_fraction=0"], ["data.val_limit=0"]):
        assert held_out(override(run, more), corpora) == {}
    assert len(HeldOut(0.2, 3).items(corpora["pairs"])) == 3 and len(HeldOut(0.001, 9).items(corpora["pairs"])) == 2
    named = override(run, [f"data.val_pairs={own / 'pairs'}"])
    assert set(held_out(named, corpora)) == {"texts"}


def test_a_run_is_validated_logged_and_its_best_kept(finished):
    log = [record for record in log_of(finished) if "dev" in record]
    assert [record["step"] for record in log] == [1, 3, 5]
    measures = {"image_to_text_R@1", "text_to_image_R@10", "mean_recall", "CIDEr-D"}
    measures |= {"perplexity", "perplexity_without_image", "perplexity_texts"}
    for record in log:
        assert {f"val/{name}" for name in measures} <= record.keys()
        assert record["dev"] == record["val/mean_recall"] and np.isfinite(record["val/perplexity_texts"])
    best = max(log, key=lambda record: (record["dev"], -record["dev_loss"], record["step"]))
    model = unimo.load(finished)
    assert model.facts["step"] == best["step"] + 1 and Path(model.facts["path"]).parent.name == "best"


def test_a_stopped_run_validates_as_if_it_had_not_stopped(own, finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    for place in (out / "best").glob("step-00000006"):
        shutil.rmtree(place)
    path = trained(run_on(own), out, resume=True)
    assert log_of(out) == log_of(finished) and bits_of(path) == bits_of(finished / "checkpoints" / "step-00000006")
    assert unimo.load(out).facts["step"] == unimo.load(finished).facts["step"]


def test_it_is_evaluated_on_what_it_held_out_and_says_so(finished, own):
    report = evaluate(finished, data=FAST, precision="fp32", say=quiet)
    rows = {(row["task"], row["metric"]): row["score"] for row in report["scores"]}
    assert rows["Retrieval, held-out pairs", "image to text R@1"].n == 8
    assert rows["Retrieval, held-out pairs", "image to text R@1"].chance == pytest.approx(1 / 8)
    assert {"captions beside their images", "texts"} <= {metric for task, metric in rows if task == "Masked words"}
    assert any("did best in validation" in note for note in report["notes"])
    assert str(own / "pairs") in report["summary"] and "6 steps" in report["summary"]
    first = report["examples"][0]
    assert first["open"] and len(first["items"]) == 4
    page = (finished / "report.html").read_text()
    assert page.index("Six images") < page.index("<details>") < page.index("<table")
    assert page.count('<div class="headline">') == 1 and page.count("chance: ") >= 2


def test_any_run_is_evaluated_on_any_data(finished, own, world, tmp_path):
    data = override(FAST, [f"pairs={world / 'heldout'}", f"texts={own / 'texts'}", f"images={world / 'classes'}"])
    report = evaluate(finished, data=data, out=tmp_path, precision="fp32", say=quiet)
    rows = {(row["task"], row["metric"]): row["score"] for row in report["scores"]}
    assert rows["Retrieval", "text to image R@1"].n > 8 and ("Classification by class names", "top-1") in rows


def test_texts_alone_are_validated_by_perplexity(own, tmp_path):
    off = [f"objectives.{name}.weight=0" for name in ("cmcl", "itm", "image_contrastive")]
    trained(run_on(own, "data.pairs=", "data.images=", *off), tmp_path / "run")
    log = [record for record in log_of(tmp_path / "run") if "dev" in record]
    assert len(log) == 3 and all(
        np.exp(-record["dev"]) == pytest.approx(record["val/perplexity_texts"]) for record in log
    )
    report = evaluate(tmp_path / "run", data=FAST, precision="fp32", say=quiet)
    own = {row["metric"] for row in report["scores"] if not row.get("baseline")}
    assert own == {"texts", "perplexity, texts"}


def test_named_validation_data_take_the_place_of_a_held_out_part(own, world, tmp_path):
    run = run_on(own, f"data.val_pairs={world / 'heldout'}", "restrict_vocabulary=false", "steps=2")
    trained(run, tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "data.json").read_text())
    assert {"val_pairs", "pairs", "texts"} <= settings.keys()
    report = evaluate(tmp_path / "run", data=FAST, precision="fp32", say=quiet)
    assert {"Retrieval", "Masked words"} <= {row["task"] for row in report["scores"]}
    with pytest.raises(DataError, match="does not exist"):
        trained(override(run, [f"data.val_pairs={tmp_path / 'nowhere'}"]), tmp_path / "other")
    with pytest.raises(DataError, match="are those to train on"):
        trained(override(run, [f"data.val_pairs={own / 'pairs'}"]), tmp_path / "another")


def test_whether_unpaired_data_helped_is_said_in_a_sentence(own, finished, tmp_path):
    off = ["objectives.image_contrastive.weight=0"]
    alone = tmp_path / "pairs-only"
    trained(run_on(own, "data.texts=", "data.images=", *off), alone)
    for folder in (finished, alone):
        evaluate(folder, data=FAST, precision="fp32", say=quiet)
    for order in ((finished, alone), (alone, finished)):
        sentence, *rest = compare(order)
        assert "unpaired data" in sentence or "No difference" in sentence
        assert "with texts and images (whole) and without (pairs-only)" in sentence
        assert "paired 95 % interval" in sentence and "on the same 8 items" in sentence
        assert "objectives.image_contrastive.weight" in sentence  # no clean comparison
        paired = next(line for line in rest if "text to image R@1 |" in line)
        assert "[" in paired.split("|")[-2]
