"""A search index finds what comparing with everything finds; killed, its build goes on; readers see finished rows only;
what is damaged or not its own is refused."""

from __future__ import annotations

import json
import shutil
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from region_files import write_regions
from tiny_unimo import FEATURES, detected, lively_unimo
from tiny_unimo2 import lively_model

import unimo
from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import open_corpus
from unimo.errors import DataError, ResourceError, UnimoError, UsageError, WeightsError
from unimo.inference import Pipeline
from unimo.inference.matching import BESIDE
from unimo.regions.rows import RowFormat
from unimo.retrieval import build, build_index, open_index, store
from unimo.retrieval.hits import table
from unimo.retrieval.passages import passages
from unimo.tokenizer import Tokenizer

STORY = " ".join(f"The dog number {i} runs along the beach with a ball." for i in range(30))
TEXTS = ["a red house", "two dogs sleep", "three owls on a tree", "a red house", "Ünïcode ☃ in the snow"]
CAPTIONS = [["a dog", "it runs"], ["a cat"], ["an owl at night", "a bird", "a dog"], ["a boat"]]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(lively_model(vocabulary=Tokenizer.vocab_size), precision="fp32")


@pytest.fixture(scope="module")
def other() -> Pipeline:
    return Pipeline(lively_model(seed=1, vocabulary=Tokenizer.vocab_size), precision="fp32")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with texts (a long one among them), images, and images with captions."""
    folder = tmp_path_factory.mktemp("corpora")
    rng = np.random.default_rng(0)

    def image(path):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)

    for name in ("texts", "images", "pairs"):
        (folder / name).mkdir()
    (folder / "texts" / "story.txt").write_text(STORY)
    (folder / "texts" / "lines.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for i in range(5):
        image(folder / "images" / f"{i}.png")
    rows = []
    for i, captions in enumerate(CAPTIONS):
        image(folder / "pairs" / f"pair{i}.png")
        rows.append(json.dumps({"image": f"pair{i}.png", "captions": captions}) + "\n")
    (folder / "pairs" / "pairs.jsonl").write_text("".join(rows))
    return folder


def everything(data, **more):
    return {"texts": data / "texts", "images": data / "images", "pairs": data / "pairs", "passage": 40, **more}


@pytest.fixture(scope="module")
def built(pipeline, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "all"
    build_index(pipeline, folder, **everything(data), say=str)
    return folder


@pytest.fixture(scope="module")
def index(pipeline, built):
    return unimo.open_index(built, model=pipeline)


def all_rows(index, kind):
    """Every row of a kind, in order, and the stored embeddings as float64."""
    found = index.table.search().where(f"kind = '{kind}' AND error IS NULL").with_row_id(True).to_arrow().to_pylist()
    rows = sorted((SimpleNamespace(**row) for row in found), key=lambda row: row._rowid)
    return rows, np.array([row.vector for row in rows], np.float64)


def contents(folder):
    """All rows but for their vectors, and those."""
    table = store.open_finished(folder, store.read_header(folder))
    rows = table.search().to_arrow().to_pylist()
    return [{**row, "vector": None} for row in rows], np.array([row["vector"] for row in rows], np.float32)


# ---- passages


def test_passages_are_the_whole_text_in_pieces_that_fit():
    tokenizer = Tokenizer.default()
    texts = [
        STORY,
        "one",
        "x" * 3000,
        "word " * 500,
        "\n\n A line.\n\n\nAnother one, longer than that. \n",
        "日本語" * 400,
    ]
    for text in texts:
        for most in (5, 16, 60):
            found = passages(text, tokenizer, most)
            joined = "".join(text[p.begin : p.end] for p in found)
            assert "".join(joined.split()) == "".join(text.split())
            assert all(1 <= len(p.ids) <= most for p in found)
            assert all(tokenizer.decode(p.ids) == text[p.begin : p.end] for p in found)
            assert all(a.end <= b.begin for a, b in pairwise(found))
    assert passages(" \n ", tokenizer, 5) == [] == passages("", tokenizer, 5)


def test_passages_keep_sentences_whole_and_fill_up():
    found = passages(STORY, Tokenizer.default(), 60)
    assert all(STORY[p.begin : p.end].startswith("The dog") and STORY[p.end - 1] == "." for p in found)
    one = len(Tokenizer.default().encode(" The dog number 10 runs along the beach with a ball."))
    assert all(len(p.ids) + one > 60 for p in found[:-1])  # one more sentence would not have fitted


# ---- what is in it


def test_rows_say_where_they_come_from(index, data):
    rows, embeddings = all_rows(index, "text")
    assert index.rows == {"text": len(rows), "image": 9} and embeddings.shape == (len(rows), 16)
    story = [row for row in rows if row.key == "story.txt"]
    assert len(story) > 5 and all(STORY[row.begin : row.end] == row.text for row in story)
    lines = [row for row in rows if row.key.startswith("lines.jsonl:")]
    assert [(row.key, row.text) for row in lines] == [(f"lines.jsonl:{1 + i}", text) for i, text in enumerate(TEXTS)]
    raw = (data / "texts" / "lines.jsonl").read_bytes()
    assert all(json.loads(raw[row.place :].split(b"\n")[0])["text"] == row.text for row in lines)
    captions = [(row.key, row.caption, row.text) for row in rows if row.key.startswith("pair")]
    assert captions == [(f"pair{i}.png", j, text) for i, some in enumerate(CAPTIONS) for j, text in enumerate(some)]
    (hit,) = index.search("three owls on a tree", only="texts", top_k=1)
    assert (hit.text, hit.path, hit.place) == (lines[2].text, str(data / "texts" / "lines.jsonl"), lines[2].place)
    (hit,) = index.search(image=data / "images" / "3.png", only="images", top_k=1)
    assert hit.path == str(data / "images" / "3.png") and hit.score == pytest.approx(1, abs=2e-3)
    (hit,) = index.search(image=data / "pairs" / "pair2.png", only="images", top_k=1)
    assert hit.path == str(data / "pairs" / "pair2.png")


def test_embeddings_are_the_models_own(index, pipeline, data):
    rows, embeddings = all_rows(index, "text")
    np.testing.assert_allclose(embeddings, pipeline.encode_text([row.text for row in rows]), rtol=0, atol=1e-3)
    rows, embeddings = all_rows(index, "image")
    paths = [data / ("pairs" if row.key.startswith("pair") else "images") / row.key for row in rows]
    np.testing.assert_allclose(embeddings, pipeline.encode_image(paths), rtol=0, atol=1e-3)


# ---- what is found


QUERIES = [
    ({"text": "a dog runs on the beach"}, "images"),
    ({"text": "a dog runs on the beach"}, "texts"),
    ({"image": "images/1.png"}, "images"),
    ({"image": "images/1.png"}, "texts"),
    ({"text": "an owl", "image": "pairs/pair0.png"}, "images"),
    ({"text": "an owl", "image": "pairs/pair0.png"}, "texts"),
    ({"text": "an owl"}, None),
    ({"text": "an owl", "image": "pairs/pair0.png"}, None),
]


@pytest.mark.parametrize(("query", "only"), QUERIES)
@pytest.mark.parametrize("top_k", [1, 4, 1000])
def test_search_finds_what_comparing_with_everything_finds(index, pipeline, data, query, only, top_k):
    asked = {name: data / value if name == "image" else value for name, value in query.items()}
    sides = [*(pipeline.encode_text([asked["text"]]) if "text" in asked else ())]
    sides += [*(pipeline.encode_image([asked["image"]]) if "image" in asked else ())]
    mean = np.mean(np.array(sides, np.float64), axis=0)
    vector = mean / np.linalg.norm(mean)
    expected = {}
    for kind in {"images": ["image"], "texts": ["text"], None: ["text", "image"]}[only]:
        rows, embeddings = all_rows(index, kind)
        scores = embeddings @ vector
        order = np.lexsort((np.arange(len(rows)), -scores.astype(np.float32)))
        expected[kind] = [(rows[i].key, rows[i].begin, rows[i].text, pytest.approx(scores[i], abs=1e-6)) for i in order]
    hits = index.search(**asked, only=only, top_k=top_k)
    total = sum(len(some) for some in expected.values())
    assert [hit.rank for hit in hits] == list(range(1, 1 + min(top_k, total)))
    for kind, some in expected.items():
        found = [(hit.key, hit.begin, hit.text, hit.score) for hit in hits if hit.kind == kind]
        assert found == some[: len(found)]
        turns = sum(min(len(other), len(some)) for other in expected.values())  # while both kinds last, they take turns
        assert len(found) in ((top_k // len(expected), -(-top_k // len(expected))) if top_k <= turns else (len(some),))


def test_two_kinds_take_turns_the_larger_cosine_first(index, data):
    both = 2 * min(index.rows.values())
    for query, first in (({"text": "a red house"}, "text"), ({"image": data / "images" / "1.png"}, "image")):
        hits = index.search(**query, top_k=100)
        assert hits[0].kind == first and hits[0].score == pytest.approx(1, abs=2e-3)
        for one, other in zip(hits[:both:2], hits[1:both:2]):
            assert {one.kind, other.kind} == {"text", "image"} and one.score >= other.score
        assert len({hit.kind for hit in hits[both:]}) == 1


def test_the_whole_of_a_long_query_counts(index, pipeline):
    pieces = passages(STORY, pipeline.tokenizer, pipeline.max_length - 2)
    assert len(pieces) > 1
    mean = pipeline.encode_text([STORY[p.begin : p.end] for p in pieces]).mean(0)
    scores = all_rows(index, "text")[1] @ (mean / np.linalg.norm(mean))
    assert index.search(STORY, only="texts", top_k=1)[0].score == pytest.approx(scores.max(), abs=1e-5)


def test_a_hit_brings_what_its_record_says(pipeline, data, tmp_path):
    shutil.copytree(data / "images", tmp_path / "pairs")
    rows = "".join(f"{i}.png,a dog,u{i}\n" for i in range(5))
    (tmp_path / "pairs" / "t.csv").write_text(f"image,caption,url\n{rows}")
    (tmp_path / "texts.jsonl").write_text('{"text": "a cat", "year": 1999, "score": NaN, "of": {"a": [1]}}\n')
    given = {"pairs": tmp_path / "pairs", "texts": tmp_path / "texts.jsonl"}
    index = unimo.open_index(build_index(pipeline, tmp_path / "index", **given, say=str), model=pipeline)
    hits = index.search("a dog", top_k=20)
    assert [index.meta(hit) for hit in hits if hit.key == "3.png"] == [{"url": "u3"}] * 2
    said = {"year": 1999, "score": None, "of": {"a": [1]}}
    assert [index.meta(hit) for hit in hits if hit.text == "a cat"] == [said]
    (tmp_path / "pairs" / "t.csv").unlink()
    again = unimo.open_index(tmp_path / "index", model=pipeline)
    assert {again.meta(hit) for hit in hits if hit.key == "3.png"} == {None}


def test_approximate_search(pipeline, data, index, built, tmp_path):
    with pytest.raises(UsageError, match="no inverted file"):
        open_index(built, approximate=True)
    build_index(pipeline, tmp_path / "index", **everything(data), approximate=True, say=str)
    other = open_index(tmp_path / "index", model=pipeline, approximate=True)
    plans = other.table.search(np.ones(16)).where("kind = 'text'", prefilter=True).explain_plan(True)
    assert "ANN" in plans
    for query in ({"text": "a dog"}, {"image": Image.new("RGB", (8, 8), (200, 10, 10))}):
        same = [one.search(**query, only="texts", top_k=3) for one in (other, index)]
        assert [hit.text for hit in same[0]] == [hit.text for hit in same[1]]


# ---- the second stage


@pytest.mark.parametrize("both", [False, True])
def test_rerank_orders_images_by_their_fused_score_with_the_text(index, pipeline, data, both):
    text, image = "three owls", data / "pairs" / "pair1.png"
    query = {"text": text, "image": image} if both else {"text": text}
    first = index.search(**query, only="images", top_k=9)
    second = index.search(**query, only="images", top_k=9, rerank=6)
    paths = [hit.path for hit in first]
    fused = pipeline.match(
        pipeline.encode_images(paths), pipeline.encode_texts([text]), np.array([[i, 0] for i in range(9)])
    )
    if both:  # the other side by its cosine, over the temperature of contrast
        fused = fused + pipeline.encode_image(paths) @ pipeline.encode_image([image])[0] / 0.07
    order = np.argsort(-fused[:6])
    assert order.tolist() != list(range(6))  # or the test could not see the second stage
    assert [hit.path for hit in second] == [paths[i] for i in order] + paths[6:]
    np.testing.assert_allclose([hit.fused for hit in second[:6]], fused[:6][order], rtol=0, atol=0.02 if both else 1e-3)
    assert all(hit.fused is None for hit in second[6:]) and [hit.rank for hit in second] == list(range(1, 10))
    assert index.search(**query, only="images", top_k=9, rerank=500) == index.search(
        **query, only="images", top_k=9, rerank=9
    )


def test_rerank_orders_texts_by_their_fused_score_with_the_image(index, pipeline, data):
    image = data / "images" / "2.png"
    first = index.search(image=image, only="texts", top_k=5)
    second = index.search(image=image, only="texts", top_k=3, rerank=5)
    texts = pipeline.encode_texts([hit.text for hit in first])
    fused = pipeline.match(pipeline.encode_images([image]), texts, np.array([[0, i] for i in range(5)]))
    best = np.argsort(-fused, kind="stable")[:3]
    assert [hit.text for hit in second] == [first[i].text for i in best]


def test_by_likelihood_a_text_finds_the_images_that_make_it_likely(index, pipeline):
    text = "three owls"
    first = index.search(text, only="images", top_k=9)
    second = index.search(text, only="images", top_k=9, rerank=9, rerank_by="likelihood")
    paths = [hit.path for hit in first]
    images, texts = pipeline.encode_images(paths), pipeline.encode_texts([text])
    likely = pipeline.caption_log_likelihood(images, texts, np.array([[i, 0] for i in range(9)]))
    expected = likely + pipeline.similarity(paths, [text])[:, 0] / 0.07
    order = np.argsort(-expected)
    assert [hit.path for hit in second] == [paths[i] for i in order] and order.tolist() != list(range(9))
    np.testing.assert_allclose([hit.fused for hit in second], expected[order], rtol=0, atol=2e-2)


def test_by_likelihood_an_image_finds_the_texts_that_it_makes_likelier_than_others_do(index, pipeline, data):
    image = data / "images" / "2.png"
    first = index.search(image=image, only="texts", top_k=5)
    second = index.search(image=image, only="texts", top_k=5, rerank=5, rerank_by="likelihood")
    texts = pipeline.encode_texts([hit.text for hit in first])
    beside = [index._image(row) for row in store.some(index.table, "image", BESIDE, ["data", "item"])]
    rows = [
        pipeline.caption_log_likelihood(pipeline.encode_images([one]), texts, np.array([[0, i] for i in range(5)]))
        for one in (image, *beside)
    ]
    cosine = pipeline.similarity([image], [hit.text for hit in first])[0]
    expected = rows[0] - np.log(np.mean(np.exp(rows[1:]), axis=0)) + cosine / 0.07
    order = np.argsort(-expected, kind="stable")
    assert len(beside) == BESIDE and [hit.text for hit in second] == [first[i].text for i in order]
    np.testing.assert_allclose([hit.fused for hit in second], expected[order], rtol=0, atol=2e-2)


def test_by_likelihood_texts_need_images_to_be_judged_beside(pipeline, data, tmp_path):
    build_index(pipeline, tmp_path / "index", texts=data / "texts", say=str)
    index = open_index(tmp_path / "index", model=pipeline)
    with pytest.raises(UsageError, match="beside images of the index"):
        index.search(image=data / "images" / "2.png", rerank=5, rerank_by="likelihood")
    with pytest.raises(UsageError, match="unknown score"):
        index.search("a dog", rerank=5, rerank_by="chance")


def test_rerank_reads_all_of_a_long_query(index, pipeline, data):
    pieces = passages(STORY, pipeline.tokenizer, pipeline.max_length - 2)
    hits = index.search(STORY, only="images", rerank=9)
    pairs = np.array([[i, t] for i in range(9) for t in range(len(pieces))])
    images = pipeline.encode_images([hit.path for hit in hits])
    fused = pipeline.match(images, pipeline.encode_texts([piece.ids for piece in pieces]), pairs).reshape(9, -1)
    np.testing.assert_allclose([hit.fused for hit in hits], fused.mean(1), rtol=0, atol=1e-4)
    assert np.ptp(fused, axis=1).min() > 1e-3  # the passages differ


def test_what_cannot_be_fused_keeps_its_places(index):
    first, second = (index.search("a dog runs", top_k=12, rerank=n) for n in (0, 12))
    assert [hit.kind for hit in first] == [hit.kind for hit in second]
    texts = [[hit.text for hit in hits if hit.kind == "text"] for hits in (first, second)]
    assert texts[0] == texts[1] and {hit.fused is None for hit in second if hit.kind == "text"} == {True}
    assert {hit.fused is None for hit in second if hit.kind == "image"} == {False}
    with pytest.raises(UsageError, match="images beside texts"):
        index.search("a dog runs", only="texts", rerank=5)


def test_images_that_changed_are_not_reranked(pipeline, data, tmp_path):
    shutil.copytree(data / "images", tmp_path / "images", ignore=shutil.ignore_patterns(".*"))
    build_index(pipeline, tmp_path / "index", images=tmp_path / "images", say=str)
    Image.new("RGB", (20, 20)).save(tmp_path / "images" / "2.png")
    index = open_index(tmp_path / "index", model=pipeline)
    assert len(index.search("a dog")) == 5  # what was encoded is still there
    with pytest.raises(DataError, match="not those that were indexed"):
        index.search("a dog", rerank=5)


def test_unimo_sees_regions(tmp_path):
    """Images of a model of regions: read beside their shards, searched by text, read again for the second stage."""
    model = Pipeline(lively_unimo(vocabulary=Tokenizer.vocab_size, fusion="prefix", matching=2), precision="fp32")
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.new("RGB", (100, 80), (60 * i, 9, 9)).save(tmp_path / "images" / f"{i}.png")
    corpus = open_corpus("images", tmp_path / "images")
    images = detected([3, 1, 2, 4])
    write_regions(corpus, None, images, RowFormat(FEATURES, 0))
    build_index(model, tmp_path / "index", images=tmp_path / "images", say=str)
    index = open_index(tmp_path / "index", model=model)
    np.testing.assert_allclose(all_rows(index, "image")[1], model.encode_image(images), atol=2e-3)
    (hit,) = index.search(image=images[2], top_k=1)
    assert hit.key == "2.png"
    fused = model.match(
        model.encode_images(images), model.encode_texts(["a dog"]), np.array([[i, 0] for i in range(4)])
    )
    assert [hit.key for hit in index.search("a dog", rerank=4)] == [f"{i}.png" for i in np.argsort(-fused)]
    with pytest.raises(UsageError, match="does not see pixels"):
        index.search(image=tmp_path / "images" / "0.png")
    model.model.matching = None
    with pytest.raises(UsageError, match="does not match images"):
        index.search("a dog", rerank=4)


# ---- wrong questions


def test_empty_and_impossible_queries_are_refused(index, pipeline, data, tmp_path):
    for query in ({}, {"text": ""}, {"text": " \n"}):
        with pytest.raises(UsageError, match="empty query"):
            index.search(**query)
    with pytest.raises(UsageError, match="not a text"):
        index.search(["a dog"])
    for options in ({"top_k": 0}, {"top_k": "5"}, {"rerank": -1}):
        with pytest.raises(UsageError, match=next(iter(options))):
            index.search("a dog", **options)
    with pytest.raises(UsageError, match="texts or images"):
        index.search("a dog", only="videos")
    build_index(pipeline, tmp_path / "index", images=data / "images", say=str)
    with pytest.raises(UsageError, match="holds no texts"):
        open_index(tmp_path / "index", model=pipeline).search("a dog", only="texts")
    with pytest.raises(UnimoError):
        index.search(image=data / "nothing.png")


# ---- stopped, and started again


def dying_at(stop, monkeypatch):
    """The process ends before its append of this number."""
    left = iter(range(stop))

    def append(table, rows):
        if next(left, None) is None:
            raise KeyboardInterrupt
        original(table, rows)

    original = store.append
    monkeypatch.setattr(store, "append", append)


def test_a_killed_build_goes_on_where_it_was(pipeline, other, data, built, tmp_path, monkeypatch):
    rows, vectors = contents(built)
    row, encoded = build._row, []
    monkeypatch.setattr(build, "_row", lambda *args: encoded.append(args[1]) or row(*args))
    monkeypatch.setattr(build, "_ROWS_AT_ONCE", 4)
    for stop in range(100):
        out = tmp_path / str(stop)
        with monkeypatch.context() as patched:
            dying_at(stop, patched)
            try:
                build_index(pipeline, out, **everything(data), say=str)
                break
            except KeyboardInterrupt:
                pass
        with pytest.raises(DataError, match="not a finished index"):
            open_index(out)
        with pytest.raises(UsageError, match="another model"):
            build_index(other, out, **everything(data), say=str)
        encoded.clear()
        build_index(pipeline, out, **everything(data), say=str)
        found, again = contents(out)
        assert found == rows
        np.testing.assert_allclose(again, vectors, rtol=0, atol=2e-3)
        assert stop == 0 or len(encoded) < 24  # items in the table are not read again
    assert stop > 6


def test_readers_see_finished_rows_only(pipeline, data, tmp_path, monkeypatch):
    """While rows are added, after a kill, and after more were added."""
    out = tmp_path / "index"
    build_index(pipeline, out, images=data / "images", say=str)
    before = open_index(out, model=pipeline)
    monkeypatch.setattr(build, "_ROWS_AT_ONCE", 2)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        dying_at(2, patched)
        build_index(pipeline, out, pairs=data / "pairs", add=True, say=str)
    assert open_index(out).rows == before.rows == {"text": 0, "image": 5}
    with pytest.raises(UsageError, match="with other data"):
        build_index(pipeline, out, texts=data / "texts", passage=128, add=True, say=str)
    build_index(pipeline, out, pairs=data / "pairs", add=True, say=str)
    assert len(before.search("a dog", top_k=99)) == 5
    after = open_index(out, model=pipeline)
    assert after.rows == {"text": 7, "image": 9}
    (hit,) = after.search(image=data / "pairs" / "pair2.png", only="images", top_k=1)
    assert hit.path == str(data / "pairs" / "pair2.png")
    assert len(after.search("an owl", only="images", rerank=9)) == 9  # images of both corpora are read again


def test_two_processes_do_not_write_one_index(pipeline, data, tmp_path):
    other = build._held(tmp_path / "index")
    with build._held(tmp_path / "index"), pytest.raises(ResourceError, match="another process"):
        other.__enter__()


# ---- another model, other data


def test_another_model_or_corpus_is_refused(pipeline, other, data, built, tmp_path):
    lines = []
    shutil.copytree(data, tmp_path / "moved", ignore=shutil.ignore_patterns(".*"))
    for folder, add in ((data, False), (tmp_path / "moved", True)):
        build_index(pipeline, built, **everything(folder), add=add, say=lines.append)
        assert "already" in lines.pop()
    for add in (False, True):
        with pytest.raises(UsageError, match="another model"):
            build_index(other, built, **everything(data), add=add, say=str)
        with pytest.raises(UsageError, match="another passage"):
            build_index(pipeline, built, **everything(data, passage=50), add=add, say=str)
    with pytest.raises(UsageError, match=r"with other data.*--add"):
        build_index(pipeline, built, texts=data / "texts" / "lines.jsonl", passage=40, say=str)
    with pytest.raises(WeightsError, match="not the model the index was made with"):
        open_index(built, model=other).search("a dog")
    with pytest.raises(WeightsError, match="where its model is"):
        open_index(built).search("a dog")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else in the way"):
        build_index(pipeline, tmp_path / "full", **everything(data), say=str)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_wrong_requests_are_refused_before_anything_is_written(pipeline, data, tmp_path, monkeypatch):
    out = tmp_path / "index"
    with pytest.raises(UsageError, match="nothing to index"):
        build_index(pipeline, out)
    with pytest.raises(UsageError, match="passage"):
        build_index(pipeline, out, texts=data / "texts", passage=0)
    with pytest.raises(DataError, match="does not exist"):
        build_index(pipeline, out, texts=tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(UsageError, match=r"unimo\[index\]"):
        build_index(pipeline, out, texts=data / "texts")


# ---- bad samples


def test_bad_samples_are_counted_and_named(pipeline, data, tmp_path):
    shutil.copytree(data / "images", tmp_path / "images", ignore=shutil.ignore_patterns(".*"))
    (tmp_path / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    raw = bytearray((tmp_path / "images" / "1.png").read_bytes())
    raw[len(raw) // 2] ^= 255  # its header is sound: only decoding tells
    (tmp_path / "images" / "1.png").write_bytes(raw)
    bad_samples, said = BadSamples(tmp_path / "bad.jsonl"), []
    build_index(
        pipeline,
        tmp_path / "index",
        images=tmp_path / "images",
        verify="header",
        max_bad_fraction=1.0,
        bad_samples=bad_samples,
        say=said.append,
    )
    assert "4 images" in said[-1] and "2 bad samples left out" in said[-1]
    named = {json.loads(line)["key"] for line in (tmp_path / "bad.jsonl").read_text().splitlines()}
    assert named == {"broken.png", "1.png"}
    index = open_index(tmp_path / "index", model=pipeline)
    assert index.rows["image"] == 4
    assert bad_samples.quarantined == 1 and {hit.key for hit in index.search("a dog")} == {
        f"{i}.png" for i in (0, 2, 3, 4)
    }


def test_what_the_model_cannot_embed_is_left_out_and_named(data, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_ROWS_AT_ONCE", 1)
    model = Pipeline(lively_model(vocabulary=Tokenizer.vocab_size), precision="fp32")
    house = model.tokenizer.encode("a red house")[-1]
    with torch.no_grad():
        model.model.words.word.weight[house] = float("nan")
    bad_samples = BadSamples(tmp_path / "bad.jsonl")
    build_index(model, tmp_path / "index", texts=data / "texts", max_bad_fraction=1.0, bad_samples=bad_samples, say=str)
    entries = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [entry["key"] for entry in entries] == ["lines.jsonl:1", "lines.jsonl:4"]
    assert {hit.key for hit in open_index(tmp_path / "index", model=model).search("owls", top_k=99)}.isdisjoint(
        {"lines.jsonl:1", "lines.jsonl:4"}
    )


def test_an_index_too_large_for_memory_is_scanned_on_disk(index, pipeline, built, monkeypatch):
    other = unimo.open_index(built, model=pipeline)
    index.search("a dog", top_k=1)  # has its vectors in memory from here on
    monkeypatch.setattr("unimo.retrieval.index.free_memory", lambda: 0)
    for question in ("a dog", "the beach"):
        assert other.search(question, top_k=7) == index.search(question, top_k=7)
    assert not other._vectors and index._vectors


# ---- folders that are damaged, or no index


def changed(change):
    def damage(folder):
        header = json.loads((folder / store.HEADER).read_text())
        change(header)
        (folder / store.HEADER).write_text(json.dumps(header))

    return damage


def each_file(pattern, change):
    def damage(folder):
        for path in folder.glob(pattern):
            change(path)

    return damage


def vectors_times(factor):
    def damage(folder):
        table = store.open_newest(folder, 16)
        rows = table.search().to_arrow().to_pylist()
        table.delete("true")
        store.append(table, [{**row, "vector": np.array(row["vector"], np.float32) * factor} for row in rows])
        changed(lambda header: header.update(version=table.version))(folder)

    return damage


DAMAGED = {
    "header cut": each_file(store.HEADER, lambda path: path.write_bytes(path.read_bytes()[:50])),
    "another format": changed(lambda header: header.update(format=1)),
    "a list": changed(lambda header: header.update(data=[1])),
    "no model": changed(lambda header: header.pop("model")),
    "a width of zero": changed(lambda header: header.update(width=0)),
    "another width": changed(lambda header: header.update(width=8)),
    "a version to come": changed(lambda header: header.update(version=10**6)),
    "no table": lambda folder: shutil.rmtree(folder / "rows.lance"),
    "no rows": each_file("rows.lance/data/*", lambda path: path.unlink()),
    "rows cut": each_file("rows.lance/data/*", lambda path: path.write_bytes(path.read_bytes()[:200])),
    "rows zeroed": each_file("rows.lance/data/*", lambda path: path.write_bytes(bytes(path.stat().st_size))),
    "no versions": each_file("rows.lance/_versions/*", lambda path: path.write_bytes(b"")),
    "vectors of zeros": vectors_times(0),
    "vectors too long": vectors_times(3),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_index_is_refused(built, pipeline, data, tmp_path, case):
    folder = tmp_path / "index"
    shutil.copytree(built, folder)
    DAMAGED[case](folder)
    with pytest.raises(DataError, match=r"cannot use this index|not valid JSON") as caught:
        open_index(folder, model=pipeline).search("a dog")
    assert str(folder) in caught.value.one_line()


def test_a_disk_that_refuses_is_named(built, tmp_path):
    shutil.copytree(built, tmp_path / "index")
    table = store.open_newest(tmp_path / "index", 16)
    rows = table.search().limit(2).to_arrow().to_pylist()
    shutil.rmtree(tmp_path / "index" / "rows.lance" / "data")
    (tmp_path / "index" / "rows.lance" / "data").write_text("no folder")
    with pytest.raises(ResourceError, match="cannot write the index"):
        store.append(table, rows)


def test_a_folder_that_is_no_index(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="not an index"):
            open_index(folder)


# ---- the command line


def test_the_table_is_one_safe_line_for_each_hit(index):
    from dataclasses import replace

    hits = index.search("a dog", top_k=2)
    lines = table([replace(hits[0], text="two\nlines \x1b[31mred\u202e"), hits[1]])
    assert len(lines) == 2 and all(line.isprintable() for line in lines) and lines[0].lstrip().startswith("1 ")


def test_the_verbs(pipeline, data, tmp_path, capsys, monkeypatch):
    from unimo import inference
    from unimo.cli import app

    saved = str(tmp_path / "model")
    monkeypatch.setattr(build, "load", lambda source, **_: pipeline)
    monkeypatch.setattr(inference, "load", lambda source, **_: pipeline)
    monkeypatch.setattr("unimo.retrieval.index.load", lambda source, **_: pipeline)
    out = str(tmp_path / "index")
    app(
        ["index", saved, "--texts", str(data / "texts"), "--images", str(data / "images"), "--out", out],
        standalone_mode=False,
    )
    assert "texts and 5 images" in capsys.readouterr().out
    ask = f"search {out} --text dog --only images --rerank 3 --top-k 2 --json --model {saved}".split()
    app(ask, standalone_mode=False)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["rank"] for row in rows] == [1, 2] and rows[0]["fused"] > rows[1]["fused"]
