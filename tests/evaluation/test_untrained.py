"""The baseline of random weights: the model of a run as it was before its first step, on the same items."""

from __future__ import annotations

import pytest
import torch
from corpora import pairs_tar
from tiny_task import quiet

import unimo
from unimo.config import override
from unimo.evaluation.evaluate import evaluate
from unimo.evaluation.plan import EvaluationData
from unimo.evaluation.untrained import SUFFIX, untrained
from unimo.recipes import find
from unimo.train import loop as T
from unimo.train.pretraining import Pretraining


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of no length to speak of and one of four steps, of the same seed."""
    folder = tmp_path_factory.mktemp("runs")
    pairs_tar(folder / "pairs.tar", 24)
    sizes = ["width=16", "heads=2", "image_depth=1", "text_depth=1", "grounded_depth=1", "image_size=32"]
    changes = [f"data.pairs={folder / 'pairs.tar'}", "batch.pairs=8", "batch.images=0", "batch.text_tokens=0"]
    changes += ["objectives.mlm.pairs=4", "objectives.itm.pairs=4", "objectives.seq2seq.pairs=4", "minutes=none"]
    changes += ["steps=4", "seed=5", "log=none", "precision=fp32", "data.val_fraction=0.2", "ema_decay=0"]
    run = override(find("scenes"), [*(f"model.{size}" for size in sizes), *changes])
    T.train(Pretraining(run), folder / "trained", say=quiet)
    still = override(run, ["optimizer.lr=1e-30", "optimizer.weight_decay=0"])
    T.train(Pretraining(still), folder / "still", say=quiet)
    return folder


def test_it_has_the_weights_that_the_run_began_with(runs):
    began, trained = (unimo.load(runs / name, precision="fp32") for name in ("still", "trained"))
    before = untrained(trained, "fp32")
    state, moved = before.model.state_dict(), trained.model.state_dict()
    for name, weight in began.model.state_dict().items():
        assert torch.allclose(state[name], weight, atol=1e-6), name
    assert any(not torch.equal(state[name], weight) for name, weight in moved.items())


def test_its_scores_are_those_of_a_run_that_learnt_nothing_and_stand_beside_the_models(runs):
    data = EvaluationData(shortlist=0, captioned=2, baseline=0)
    options = {"data": data, "precision": "fp32", "say": quiet}
    reports = [evaluate(runs / name, out=runs / f"report of {name}", **options) for name in ("still", "trained")]
    alone, beside = ({(row["task"], row["metric"]): row for row in report["scores"]} for report in reports)
    baselines = {key: row for key, row in beside.items() if key[1].endswith(SUFFIX)}
    assert {task.partition(",")[0] for task, _ in baselines} == {"Retrieval", "Captions", "Masked words"}
    for (task, metric), row in baselines.items():
        assert row["baseline"] and (task, metric.removesuffix(SUFFIX)) in beside
        if task.startswith(("Retrieval", "Masked")):
            own = alone[task, metric.removesuffix(SUFFIX)]
            assert row["score"].value == pytest.approx(own["score"].value, rel=1e-4) and row["items"] == own["items"]
    page = (runs / "report of trained" / "report.html").read_text()
    assert "random weights: " in page[: page.index("Scores")]


def test_it_can_be_left_out_and_a_fine_tuned_model_has_none(runs):
    data = EvaluationData(shortlist=0, captioned=0, baseline=0, random_weights=False)
    report = evaluate(runs / "trained", out=runs / "short", data=data, precision="fp32", say=quiet)
    assert not any(row["metric"].endswith(SUFFIX) for row in report["scores"])
    pipeline = unimo.load(runs / "trained", precision="fp32")
    pipeline.facts["settings"]["kind"] = "classification"
    assert untrained(pipeline, "fp32") is None
