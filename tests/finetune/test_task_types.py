"""The task types: answers that depend on nothing but their row, and scores that count every row."""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from unimo.errors import UsageError
from unimo.finetune import baselines
from unimo.finetune.baselines import nearest_rows
from unimo.finetune.batches import IMAGES, Place, TaskRows
from unimo.finetune.classification import Classified
from unimo.finetune.retrieval import RankedRow
from unimo.finetune.settings import Finetuning, Ranking, Writing
from unimo.finetune.split import Example, Examples
from unimo.finetune.task_type import in_passes
from unimo.finetune.task_types import (
    Classification,
    Generation,
    Regression,
    Retrieval,
    resolved,
    selection_score,
    task_type_of,
    with_targets,
)
from unimo.inference import Pipeline
from unimo.metrics import METRICS
from unimo.model.build import ModelSettings, build
from unimo.model.task_heads import HeadSettings
from unimo.model.unified import Request
from unimo.objectives import step
from unimo.tokenizer import Tokenizer

LABELS = ("a", "b", "c")
TEXTS = ["a dog", "two cats sleep on a red sofa beside the window", "Ünïcode ☃", "a dog runs " * 9, "no"]
SETTINGS = ModelSettings(
    "tiny", width=32, heads=2, image_depth=1, text_depth=1, grounded_depth=1, image_size=16, patch=8, positions=66,
    dictionary=16, chosen=4, initial_std=0.3, dropout=0.1, attention_dropout=0.1,
)  # fmt: skip


class Shown(TaskRows):
    """Rows whose images are made up: by the number of the row."""

    def __init__(self, examples: Examples, sees: bool = True):
        super().__init__(examples, size=16, tokenizer=Tokenizer.default(), sees=sees)

    def pixels(self, key: str) -> np.ndarray:
        return np.random.default_rng(int(key)).integers(0, 256, (16, 16, 3), np.uint8)

    def show(self, builder, key, names):
        builder.add_image(IMAGES, np.ascontiguousarray(self.pixels(key).transpose(2, 0, 1)))
        return len(builder.pixels[IMAGES]) - 1

    def seen(self, row: int):
        return self.pixels(self.examples.rows[row].image)


def examples(n: int = 9) -> Examples:
    rows = [
        Example(f"row {i}", (TEXTS[i % 5], f"and {i}"), str(i % 4), LABELS[i % 3], {"group": str(i // 2)})
        for i in range(n)
    ]
    return Examples("dev", rows)


def model_of(head: HeadSettings | None = None, **changes):
    torch.manual_seed(0)
    return build(replace(SETTINGS, head=head, **changes)).eval()


def cases() -> dict:
    """Name -> (task, its model, rows)."""
    classes = HeadSettings(labels=LABELS, reads="both", max_length=40)
    number = HeadSettings(kind="number", max_length=40, centre=2.0, spread=3.0)
    numbers = Examples("dev", [replace(row, target=float(i)) for i, row in enumerate(examples().rows)])
    write = Writing(max_source_length=40, max_target_length=20, num_beams=2, max_length=6)
    return {
        "classify": (Classification(classes, sees=True), model_of(classes), examples()),
        "regress": (Regression(number, sees=False), model_of(number), numbers),
        "write": (Generation("t", write, sees=True, reads=True), model_of(), examples()),
    }


def plain(predictions) -> list:
    return [[one.likely[name] for name in LABELS] if isinstance(one, Classified) else one for one in predictions]


@pytest.mark.parametrize("name", ["classify", "regress", "write"])
def test_answers_are_the_same_to_the_last_bit_in_any_order_and_company(name):
    """With batch_size=1 each row is read alone: no other row, order or batch size of the answerer can touch it."""
    task, model, rows = cases()[name]
    result = plain(task.predict(Pipeline(model, precision="fp32"), Shown(rows), 1))
    for _ in range(2):
        again = plain(task.predict(Pipeline(model, precision="fp32"), Shown(rows), 1))
        assert all(np.array_equal(a, b) for a, b in zip(result, again, strict=True))
    order = np.random.default_rng(0).permutation(len(rows))
    mixed = Examples("mixed", [rows.rows[i] for i in order])
    again = plain(task.predict(Pipeline(model, precision="fp32"), Shown(mixed), 1))
    assert all(np.array_equal(result[i], b) for i, b in zip(order, again, strict=True))
    few = plain(task.predict(Pipeline(model, precision="fp32"), Shown(Examples("few", rows.rows[3:5])), 1))
    assert all(np.array_equal(a, b) for a, b in zip(result[3:5], few, strict=True))


@pytest.mark.parametrize("batch_size", [None, 3, 7, 64])
@pytest.mark.parametrize("name", ["classify", "regress", "write"])
def test_rows_that_share_a_pass_answer_alike_but_for_rounding(name, batch_size):
    task, model, rows = cases()[name]
    pipeline = Pipeline(model, precision="fp32")
    alone, shared = (plain(task.predict(pipeline, Shown(rows), n)) for n in (1, batch_size))
    if name == "write":
        assert alone == shared
    else:
        np.testing.assert_allclose(np.stack(alone), np.stack(shared), atol=2e-5)
    own, others = (task.score(task.predict(pipeline, Shown(rows), n), rows) for n in (1, batch_size))
    assert [row["metric"] for row in own] == [row["metric"] for row in others]
    if name != "regress":  # what is counted is the same to the last digit; what is summed up may round
        assert own == others


def test_an_answerer_says_what_predictions_say():
    task, model, rows = cases()["classify"]
    pipeline = Pipeline(model, precision="fp32")
    shown = Shown(rows)
    texts = [row.texts for row in rows.rows]
    images = [shown.seen(i) for i in range(len(rows))]
    result = task.predict(pipeline, shown)
    assert pipeline.labels == LABELS and pipeline.answer(texts, images) == [one.answer for one in result]
    np.testing.assert_allclose(pipeline.classify(images, texts=texts), plain(result), atol=2e-5)
    alone = plain(task.predict(pipeline, shown, 1))
    np.testing.assert_array_equal(pipeline.classify(images, texts=texts, batch_size=1), np.float32(alone))
    for wrong in ({"images": images}, {"texts": texts}, {"images": images[:2], "texts": texts}):
        with pytest.raises(UsageError):
            pipeline.classify(**wrong)
    with pytest.raises(UsageError, match="not fine-tuned"):
        Pipeline(model_of(), precision="fp32").answer(["a dog"])


def test_a_number_is_given_in_its_own_unit():
    task, model, rows = cases()["regress"]
    pipeline = Pipeline(model, precision="fp32")
    result = task.predict(pipeline, Shown(rows), 1)
    texts = [row.texts for row in rows.rows]
    logits = pipeline.classifier.logits(None, texts, 1)[:, 0].tolist()
    assert result == [2.0 + 3.0 * x for x in logits] == pipeline.answer(texts, batch_size=1)
    builder = Shown(rows).builder([Place(4)])
    task.corrupt(builder)
    assert builder.extra["regress.targets"].tolist() == pytest.approx([(4.0 - 2.0) / 3.0])


def test_soft_answers_are_asked_one_by_one_and_added_up():
    head = HeadSettings(kind="answers", labels=("no", "two", "yes"), reads="text", max_length=40)
    task, model = Classification(head, sees=False), model_of(head)
    rows = Examples("d", [Example("x", ("how many?",), None, {"two": 1.0, "seven": 1.0, "no": 0.3})])
    builder = Shown(rows, sees=False).builder([Place(0)])
    task.corrupt(builder)
    batch = builder.finish()
    with torch.no_grad():
        parts, fused = step(model, batch, {"task": task})
        p = model.task_logits(fused["task"]).sigmoid().numpy()[0]
    target = np.array([0.3, 1.0, 0.0])  # "seven" is no answer of training: nothing is learnt from it
    expected = -(target * np.log(p) + (1 - target) * np.log(1 - p)).sum()
    assert float(parts["classify"].total) == pytest.approx(expected, rel=1e-5) and parts["classify"].count == 1


def test_what_is_written_is_asked_word_for_word_after_its_source():
    task = Generation("t", Writing(max_source_length=10, max_target_length=6), sees=False, reads=True)
    rows = Examples("d", [Example("x", ("a b", "c"), None, "d e f g h i j k")])
    builder = Shown(rows, sees=False).builder([Place(0)])
    task.corrupt(builder)
    batch, encode = builder.finish(), Tokenizer.default().encode
    source = [0, *encode("a b"), 2, *encode("c"), 2]
    target = [0, *encode("d e f g h i j k")][:6]  # longer ones lose their end, as published
    assert batch.texts.ids.tolist() == source + target
    assert batch.targets["write"].labels.tolist() == target[1:]
    assert batch.targets["write"].rows.tolist() == list(range(len(source), len(source) + 5))


def test_matched_pairs_of_the_circle_are_one_right_and_others_wrong():
    task = Retrieval("t", Ranking(loss="circle", negatives=3, max_length=20), "unimo-2")
    rows = Examples("d", [Example(f"{i}", (), str(i), (f"caption {i}", f"words {i}")) for i in range(8)])
    builder = Shown(rows).builder([Place(2, 1, (0, 5)), Place(6, 0, (0, 9))])
    task.corrupt(builder)
    batch, model = builder.finish(), model_of()
    request = task.requests(model, batch, model.towers(batch))["rank"]
    image, text = request.image.view(2, 7), request.text.view(2, 7)
    assert (image[:, [0, 4, 5, 6]] == image[:, :1]).all() and (text[:, :4] == text[:, :1]).all()
    words = [batch.texts.ids[a:b].tolist() for a, b in zip(batch.texts.offsets, batch.texts.offsets[1:])]
    encode = Tokenizer.default().encode
    assert words[int(text[0, 0])] == [0, *encode("words 2"), 2] and words[int(text[1, 0])] == [
        0,
        *encode("caption 6"),
        2,
    ]
    shown = Shown(rows)
    for i, own in enumerate(("2", "6")):
        right = torch.from_numpy(shown.pixels(own)).permute(2, 0, 1)
        assert torch.equal(batch.pixels[image[i, 0]], right)
        assert not any(torch.equal(batch.pixels[image[i, j]], right) for j in (1, 2, 3))
        assert all(own not in Tokenizer.default().decode(words[int(text[i, j])]) for j in (4, 5, 6))


def test_every_pair_is_fused_or_the_best_by_cosine():
    cosine = np.random.default_rng(0).standard_normal((5, 8))
    assert len(Retrieval("t", Ranking(), "unimo-2")._candidates(cosine)) == 40
    few = Retrieval("t", Ranking(shortlist=2), "unimo-2")._candidates(cosine)
    chosen = {tuple(pair) for pair in few.tolist()}
    best = {(i, int(j)) for i in range(5) for j in np.argsort(-cosine[i])[:2]}
    best |= {(int(i), j) for j in range(8) for i in np.argsort(-cosine[:, j])[:2]}
    assert chosen == best
    assert (
        len(Retrieval("t", Ranking(shortlist=99), "unimo-2")._candidates(cosine)) == 40
    )  # longer than the gallery: all


def test_captions_that_were_not_shortlisted_are_not_given_as_predictions():
    row = RankedRow(np.array([-np.inf, 2, -np.inf, 3], np.float32), ["a", "b", "c", "d"])
    assert Retrieval("retrieval", Ranking(), "unimo-2").written(row) == {"prediction": ["d", "b"], "scores": [3.0, 2.0]}


def test_of_two_errors_the_smaller_is_the_better_mark():
    task = Regression(HeadSettings("task", "number"), sees=False, metrics=("squared_error",))
    rows = examples(4)
    rows = replace(rows, rows=[replace(row, target=float(i)) for i, row in enumerate(rows.rows)])
    near, far = (selection_score(task, task.score([i + off for i in range(4)], rows)) for off in (0.1, 1.0))
    assert near > far


def test_scores_are_those_of_the_metrics_over_labelled_rows():
    task, _, rows = cases()["classify"]
    mixed = Examples("d", [replace(row, target=None) if i % 2 else row for i, row in enumerate(rows.rows)])
    predicted = [LABELS[i % 2] for i in range(len(rows))]
    (row,) = task.score(predicted, mixed)
    own = [(a, r.target) for a, r in zip(predicted, mixed.rows) if r.target]
    expected = METRICS["accuracy"]([a for a, _ in own], [t for _, t in own], groups=[f"{i}" for i in range(5)])
    assert row["score"].value == expected.value and row["score"].n == len(own) == 5


def test_the_nearest_row_is_found_by_words_and_only_among_rows_with_a_target():
    train = Examples("t", [
        Example("0", ("a dog in the park",), None, "dog"),
        Example("1", ("a cat on the sofa",), None, "cat"),
        Example("2", ("a cat on the sofa today",), None, None),
    ])  # fmt: skip
    queries = Examples("d", [Example("x", ("the sofa today",)), Example("y", ("PARK!",)), Example("z", ("zzz",))])
    assert nearest_rows(train, queries) == [1, 0, 0]


def test_settings_follow_the_training_rows():
    rows = Examples("t", [Example(str(i), ("?",), str(i), {"yes": 1.0} if i % 2 else {"no": 1.0}) for i in range(4)])
    run = resolved(Finetuning(model=SETTINGS), rows)
    assert run.read.sees and not run.read.soft and run.read.unseen == "wrong" and run.read.max_length == 64
    assert run.model.head.labels == ("no", "yes") and run.model.head.reads == "both"
    assert [row.target for row in with_targets(run, rows).rows] == ["no", "yes", "no", "yes"]
    several = Examples("t", [*rows.rows, Example("5", ("?",), "1", {"yes": 0.6, "no": 0.3})])
    soft = resolved(Finetuning(model=SETTINGS), several)
    assert soft.read.soft and soft.model.head.kind == "answers" and soft.metrics == ("soft_accuracy",)
    assert with_targets(soft, several) is several
    text = resolved(
        Finetuning(model=SETTINGS), Examples("t", [Example(str(i), ("x",), None, str(i)) for i in range(3)])
    )
    assert text.model.head.reads == "text" and not task_type_of(text).sees
    with pytest.raises(UsageError, match="neither texts nor images"):
        resolved(Finetuning(model=SETTINGS), Examples("t", [Example("0", (), None, "x"), Example("1", (), None, "y")]))


def test_a_request_reads_images_only_where_there_are_some():
    """A row without an image among rows that have one is a text alone, not a text beside nothing."""
    head = HeadSettings(labels=LABELS, reads="text", max_length=40)
    task, model = Classification(head, sees=True), model_of(head)
    rows = Examples("d", [Example("0", ("a dog",), "1", "a"), Example("1", ("a dog",), None, "a")])
    builder = Shown(rows).builder([Place(0), Place(1)])
    task.corrupt(builder)
    batch = builder.finish()
    with torch.no_grad():
        towers = model.towers(batch)
        both = model.task_logits(model.fuse(towers, task.requests(model, batch, towers))["task"])
        alone = model.task_logits(model.fuse(towers, {"t": Request(None, torch.tensor([1]))})["t"])
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-5)
    assert (both[0] - both[1]).abs().max() > 1e-3


def test_a_fresh_head_may_begin_with_the_frequencies_of_training():
    head = HeadSettings(labels=LABELS, max_length=40)
    rows = Examples("t", [Example(str(i), ("x",), None, label) for i, label in enumerate("aaaaab")])
    logits = Classification(head, sees=False).prior(rows)
    np.testing.assert_allclose(np.exp(logits), np.array([6, 2, 1]) / 9, rtol=1e-6)
    soft = HeadSettings(kind="answers", labels=("no", "yes"), max_length=40)
    answers = Examples("t", [Example(str(i), ("x",), None, {"yes": 0.5}) for i in range(8)])
    logits = Classification(soft, sees=False).prior(answers)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), [0.1, 0.5], rtol=1e-6)


def test_segments_may_be_one_with_a_real_separator_as_released():
    example, encode = Example("x", ("a passage", "its [SEP] answer")), Tokenizer.default().encode
    ids = [0, *encode("a passage"), 2, *encode("its [SEP] answer"), 2]  # no text can spell a separator
    task = Generation("t", Writing(one_segment=True, max_source_length=40), sees=False, reads=True)
    record = task.record(example, None, Tokenizer.default())
    assert record.ids.tolist() == ids and record.positions.tolist() == [2, *range(3, 2 + len(ids))]
    short = replace(task, settings=Writing(one_segment=True, max_source_length=6))
    assert short.record(example, None, Tokenizer.default()).ids.tolist() == [*ids[:5], 2]
    apart = replace(task, settings=Writing(max_source_length=40)).record(example, None, Tokenizer.default())
    assert apart.ids.tolist() == ids and apart.positions.tolist().count(3) == 2  # each begins anew


def test_a_metric_without_its_library_is_refused_before_training(monkeypatch):
    rows = Examples("t", [Example(str(i), ("x",), None, "a dog") for i in range(3)])
    run = Finetuning(model=SETTINGS, kind="generation", metrics=("bleu", "rouge"))
    assert resolved(run, rows).metrics == ("bleu", "rouge")
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UsageError, match=r"unimo\[metrics\]"):
        resolved(run, rows)


class Counted(tuple):
    """Labels that count how often all of them are gone through."""

    times = 0

    def __iter__(self):
        Counted.times += 1
        return super().__iter__()


@pytest.mark.parametrize("kind", ["classes", "answers"])
def test_case_ten_thousand_classes_in_ten_thousand_rows_start_at_once(kind):
    """Looking up a label costs a step, not a table of all labels, and a prior no identity matrix."""
    names = [f"class {i:05d}" for i in range(10_000)]
    rows = Examples("t", [Example(n, ("x",), None, n if kind == "classes" else {n: 1.0}) for n in names])
    classify = Classification(HeadSettings(kind=kind, labels=Counted(names), max_length=40), sees=False)
    Counted.times = 0
    tracemalloc.start()
    try:
        logits = classify.prior(rows)
        found = [classify.label(row) for row in rows.rows[:50]]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert Counted.times <= 2, "all labels are gone through once, not for every row"
    assert peak < 20e6, "50 rows of 10,000 labels, not 10,000 of them"
    assert np.ptp(logits) < 1e-6 and len(logits) == 10_000
    assert [int(x if kind == "classes" else x.argmax()) for x in found] == list(range(50))


def test_a_prediction_keeps_the_likeliest_labels_not_all():
    names = tuple(f"{i}" for i in range(30))
    head = HeadSettings(labels=names, reads="text", max_length=40)
    result = Classification(head, sees=False).predict(
        Pipeline(model_of(head), precision="fp32"), Shown(examples(), sees=False)
    )
    for one in result:
        assert len(one.likely) == 5 and next(iter(one.likely)) == one.answer
        assert list(one.likely.values()) == sorted(one.likely.values(), reverse=True)


def test_every_row_is_in_one_pass_and_rows_of_like_length_share_it():
    texts = ["a" * (7 * i % 23 + 1) for i in range(23)]
    rows = Shown(Examples("d", [Example(str(i), (text,)) for i, text in enumerate(texts)]), sees=False)
    passes = list(in_passes(rows, 5))
    assert sorted(i for some in passes for i in some) == list(range(23)) and max(map(len, passes)) == 5
    lengths = [len(texts[i]) for some in passes for i in some]
    assert lengths == sorted(lengths)


def test_pairs_of_retrieval_read_alone_know_nothing_of_each_other():
    task, model = Retrieval("t", Ranking(max_length=20), "unimo-2"), model_of()
    rows = [Example(f"{i}", (), str(i), (f"caption {i} of {'some ' * i}", f"words {i}")) for i in range(5)]
    pipeline, order = Pipeline(model, precision="fp32"), [3, 0, 4, 2, 1]
    result = task.predict(pipeline, Shown(Examples("d", rows)), 1)
    again = task.predict(pipeline, Shown(Examples("d", [rows[i] for i in order])), 1)
    for i, one in zip(order, again):
        expected = dict(zip(result[i].captions, result[i].scores))
        assert dict(zip(one.captions, one.scores)) == expected
    shared = task.predict(pipeline, Shown(Examples("d", rows)))
    np.testing.assert_allclose(np.stack([r.scores for r in result]), np.stack([r.scores for r in shared]), atol=1e-4)


def test_rows_without_a_pass_are_refused():
    task, model, rows = cases()["classify"]
    with pytest.raises(UsageError, match="at least one row"):
        task.predict(Pipeline(model, precision="fp32"), Shown(rows), 0)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_the_nearest_image_is_the_same_in_blocks_of_any_size(at_once, monkeypatch):
    """Never all similarities at once: n x m numbers would not fit."""
    rng = np.random.default_rng(0)
    corpus, queries = rng.standard_normal((7, 5)), rng.standard_normal((6, 5))
    sizes: list[tuple[int, int]] = []
    plain_nearest = baselines.nearest

    def counted(some, blocks, k):
        sizes.append((len(some), max(map(len, blocks))))
        return plain_nearest(some, blocks, k)

    monkeypatch.setattr(baselines, "nearest", counted)
    monkeypatch.setattr(baselines, "AT_ONCE", at_once)
    assert baselines._by_images(corpus, queries) == (queries @ corpus.T).argmax(1).tolist()
    assert max(max(pair) for pair in sizes) <= at_once
