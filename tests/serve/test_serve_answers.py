"""Every endpoint says what the model says when asked directly, joined with other requests or not."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from planted import random_pipeline
from serving import PATHS, files, png, served

from unimo.evaluation.compare import compare_tables
from unimo.model.task_heads import HeadSettings, TaskHead
from unimo.serve.attention import rollout
from unimo.serve.collection import Runs
from unimo.serve.limits import Limits

IMAGES = [png(0), png(1, (40, 16)), png(2, form="JPEG")]
TEXTS = ["a red circle", "Ünïcode ☃ above", "two cats sleep on a sofa"]
CLOSE = {"rtol": 0, "atol": 1e-4}


def post(client, path, images=(), field="images", **fields):
    answer = client.post(path, data=fields, files=files(field, *images) or None)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_captions(client, pipeline):
    for options in ({}, {"num_beams": 3, "max_length": 7}):
        assert post(client, "/caption", IMAGES, **options)["captions"] == pipeline.caption(IMAGES, **options)


def test_embeddings_and_similarity(client, pipeline):
    found = post(client, "/embed", IMAGES, texts=TEXTS)
    np.testing.assert_allclose(found["images"], pipeline.encode_image(IMAGES), **CLOSE)
    np.testing.assert_allclose(found["texts"], pipeline.encode_text(TEXTS), **CLOSE)
    assert post(client, "/embed", texts=TEXTS)["images"] == []
    cosine = post(client, "/similarity", IMAGES, texts=TEXTS[:2])["scores"]
    np.testing.assert_allclose(cosine, pipeline.similarity(IMAGES, TEXTS[:2]), **CLOSE)
    fused = post(client, "/similarity", IMAGES, texts=TEXTS[:2], by="matching")["scores"]
    np.testing.assert_allclose(fused, pipeline.itm_score(IMAGES, TEXTS[:2]), **CLOSE)


def test_classes_by_name(client, pipeline):
    found = post(client, "/classify", IMAGES, names=["dog", "owl"], prompts=["a {}", "{}"])
    assert found["names"] == ["dog", "owl"]
    expected = pipeline.classify(IMAGES, ["dog", "owl"], prompts=["a {}", "{}"])
    np.testing.assert_allclose(found["probabilities"], expected, **CLOSE)


@pytest.mark.parametrize("images", [[], IMAGES[:1]])
def test_mask_filling(client, pipeline, images):
    found = post(client, "/fill-mask", images, "image", text="a [MASK] circle", top_k=4)
    expected = pipeline.fill_mask("a [MASK] circle", *images, top_k=4)
    assert found["tokens"] == [token for token, _ in expected]
    np.testing.assert_allclose(found["probabilities"], [p for _, p in expected], **CLOSE)


@pytest.mark.parametrize("query", [{"text": TEXTS[0]}, {"image": IMAGES[0]}, {"text": TEXTS[0], "image": IMAGES[0]}])
@pytest.mark.parametrize("options", [{"top_k": 3}, {"rerank": 8}, {"only": "images"}])
def test_search(client, collection, query, options):
    text, image = query.get("text"), query.get("image")
    if options.get("only") and not text:
        options = {**options, "rerank": 0}
    found = post(client, "/search", [image] if image else [], "image", **({"text": text} if text else {}), **options)
    expected = collection.index.search(text, image, **options)
    assert [(hit["kind"], hit["key"], hit["text"]) for hit in found["hits"]] == [
        (h.kind, h.key, h.text) for h in expected
    ]
    np.testing.assert_allclose([hit["score"] for hit in found["hits"]], [hit.score for hit in expected], **CLOSE)


def test_hits_bring_their_images_and_records_on_wish(client, collection):
    hits = post(client, "/search", text=TEXTS[0], thumbnails="true", meta="true")["hits"]
    assert [hit["meta"] for hit in hits] == [collection.index.meta(hit) for hit in collection.index.search(TEXTS[0])]
    assert {hit["kind"] for hit in hits} == {"image", "text"}
    assert all(hit["thumbnail"].startswith("data:image/png;base64,") for hit in hits)


def test_dictionary(client, pipeline):
    found = client.get("/dictionary").json()
    assert found["size"] == len(pipeline.model.dictionary.entries) and found["pairs"] == 8
    chosen = [entry["chosen"] for entry in found["entries"]]
    assert chosen == sorted(chosen, reverse=True) and 0 < sum(chosen) <= 8 * pipeline.model.dictionary.chosen
    codes = pipeline.encoder.codes(pipeline.encode_images(IMAGES[:1]), pipeline.encode_texts(TEXTS[:1]))
    assert post(client, "/dictionary", IMAGES[:1], "image", text=TEXTS[0])["entries"] == codes[0].tolist()


@pytest.mark.parametrize(
    "kind, reads", [("classes", "both"), ("answers", "both"), ("number", "image"), ("classes", "text")]
)
def test_the_head_of_a_fine_tuned_model(kind, reads):
    pipeline = random_pipeline()
    labels = () if kind == "number" else ("yes", "no", "two")
    settings = HeadSettings(kind=kind, labels=labels, reads=reads, centre=2.0)
    torch.manual_seed(0)
    pipeline.model.head = TaskHead(pipeline.model.width, settings, initial_std=1.0).eval()
    images, texts = IMAGES if reads != "text" else [], TEXTS if reads != "image" else None
    fields = {} if texts is None else {"texts": texts}
    with served(pipeline) as client:
        answers = post(client, "/answer", images, **fields)["answers"]
        expected = pipeline.answer(texts, images or None)
        if kind == "number":
            np.testing.assert_allclose(answers, expected, **CLOSE)
        else:
            assert answers == expected
        found = post(client, "/classify", images, **fields)
        assert found["names"] == list(labels)
        np.testing.assert_allclose(found["probabilities"], pipeline.classify(images or None, texts=texts), **CLOSE)
        if reads == "text":  # a pair of texts is one row
            pairs = post(client, "/answer", texts=TEXTS, text_pairs=TEXTS[::-1])["answers"]
            assert pairs == pipeline.answer([list(pair) for pair in zip(TEXTS, TEXTS[::-1])])


def test_requests_are_joined_and_answered_as_if_alone(pipeline):
    texts = [f"{'many ' * (i % 5)}words, number {i}" for i in range(40)]
    images = [png(i) for i in range(8)]
    with served(pipeline, limits=Limits(wait=0.2)) as client, ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda text: post(client, "/embed", texts=text)["texts"][0], texts))
        captions = list(pool.map(lambda image: post(client, "/caption", [image])["captions"][0], images))
        counted = client.get("/metrics").text
    np.testing.assert_allclose(found, pipeline.encode_text(texts), **CLOSE)
    assert captions == pipeline.caption(images)
    passes, rows = counts(counted)
    assert rows == 48 and passes < 24


def test_masked_words_matches_and_searches_are_joined_and_answered_as_if_alone(pipeline, collection):
    texts = [f"{'a ' * (i % 4)}[MASK] number {i}" for i in range(12)]
    images, index = [png(i) for i in range(6)], collection.index
    queries = [{"text": f"caption {i}"} for i in range(6)]
    with served(pipeline, collection, limits=Limits(wait=0.2)) as client, ThreadPoolExecutor(16) as pool:
        words = [*pool.map(lambda text: post(client, "/fill-mask", text=text), texts)]
        beside = [*pool.map(lambda image: post(client, "/fill-mask", [image], "image", text=texts[0]), images)]
        matches = [*pool.map(lambda image: post(client, "/similarity", [image], texts=TEXTS, by="matching"), images)]
        hits = [*pool.map(lambda query: post(client, "/search", **query, top_k=4), queries)]
        hits += pool.map(lambda image: post(client, "/search", [image], "image", text=TEXTS[0], top_k=4), images)
        counted = client.get("/metrics").text
    expected = [pipeline.fill_mask(text) for text in texts] + [pipeline.fill_mask(texts[0], image) for image in images]
    for found, alone in zip(words + beside, expected):
        assert found["tokens"] == [token for token, _ in alone]
        np.testing.assert_allclose(found["probabilities"], [p for _, p in alone], **CLOSE)
    for found, image in zip(matches, images):
        np.testing.assert_allclose(found["scores"], pipeline.itm_score([image], TEXTS), **CLOSE)
    alone = [index.search(**query, top_k=4) for query in queries]
    alone += [index.search(TEXTS[0], image, top_k=4) for image in images]
    for found, expected in zip(hits, alone):
        assert [hit["key"] for hit in found["hits"]] == [hit.key for hit in expected]
        np.testing.assert_allclose([hit["score"] for hit in found["hits"]], [hit.score for hit in expected], **CLOSE)
    passes, rows = counts(counted)
    assert rows == 12 + 6 + 6 * len(TEXTS) + 12 and passes < 24


def counts(metrics: str) -> list[float]:
    """Forward passes, and rows of them."""
    names = ("passes", "rows")
    return [float(re.search(rf"^unimo_model_{name}_total (\S+)", metrics, re.M)[1]) for name in names]


# ---- attention


def test_a_written_word_is_reached_by_patches_alone_and_by_nothing_behind_it(pipeline):
    ids = pipeline.encoder.frame("a red circle")
    written = rollout(pipeline, IMAGES[0], ids, written=True)
    assert written.shape == (len(ids), (pipeline.side // 8) ** 2)
    np.testing.assert_allclose(written.sum(1), 1, atol=1e-5)
    other = rollout(pipeline, IMAGES[0], pipeline.encoder.frame("a red square"), written=True)
    np.testing.assert_allclose(
        written[:4], other[:4], atol=1e-5
    )  # circle and square are both written by what is before


def test_attention_comes_with_captions_answers_and_blanks(client, pipeline):
    found = post(client, "/caption", IMAGES[:2], attention="true", max_length=5)
    for caption, shown in zip(found["captions"], found["attention"]):
        assert "".join(shown["pieces"]) == caption and len(shown["maps"]) == len(shown["pieces"])
        assert shown["side"] ** 2 == len(shown["maps"][0])
    found = post(client, "/fill-mask", IMAGES[:1], "image", text="a [MASK] circle", attention="true")
    assert found["attention"][0]["pieces"] == ["a", "[MASK]", " circle"]


# ---- runs, health, the page


def test_runs_are_compared_by_name(client, pipeline, tmp_path):
    for name, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        score = {"value": value, "low": value - 0.1, "high": value + 0.1}
        report = {"scores": [{"task": "Captions", "metric": "CIDEr | D", "unit": "", "score": score}]}
        (tmp_path / name / "evaluation.json").write_text(json.dumps(report))
        (tmp_path / name / "settings.json").write_text(json.dumps({"steps": int(10 * value)}))
    (tmp_path / "b" / "report.html").write_text("<p>scores</p>")
    runs = Runs.beside(tmp_path / "a")
    assert list(runs.folders) == ["a", "b"]
    with served(pipeline, None, runs) as own:
        assert own.get("/runs").json() == {"runs": ["a", "b"], "reports": ["b"]}
        found = post(own, "/compare", runs=["a", "b"])
        assert found["settings"] == [["setting", "a", "b"], ["steps", "10", "20"]]
        tables = compare_tables([tmp_path / "a", tmp_path / "b"])
        assert (found["answers"], found["scores"]) == (tables.answers, tables.scores)
        assert found["scores"][1][0] == "Captions: CIDEr | D" and found["scores"][1][-1] == "better"
        alone = post(own, "/compare", runs=["a"])
        assert alone["scores"] == [["score", "a"], tables.scores[1][:2]] and not alone["answers"] + alone["settings"]
        assert own.get("/runs/b/report").text == "<p>scores</p>"
        for path in ("/runs/a/report", "/runs/..%2Fa/report", f"/runs/{tmp_path}/report"):
            assert own.get(path).status_code == 404
        assert own.post("/compare", data={"runs": str(tmp_path / "a")}).status_code == 404


def test_health_and_openapi(client, pipeline):
    facts = client.get("/health").json()["model"]
    assert facts["pixels"] == pipeline.side and facts["collection"] == {"text": 8, "image": 8}
    paths = client.get("/openapi.json").json()["paths"]
    assert {*PATHS, "/health", "/metrics"} <= {*paths}
    assert "num_beams" in str(client.get("/openapi.json").json()["components"])


def test_the_page_shows_strangers_words_as_words(pipeline):
    name = '</script><script>alert(1)</script>\u202e"'
    with served(pipeline, name=name) as client:
        page = client.get("/")
        examples = [client.get(f"/examples/{i}") for i in range(6)]
    assert page.status_code == 200 and "<script>alert" not in page.text and "\u202e" not in page.text
    nonces = re.findall(r'<(?:script|style) nonce="([^"]+)"', page.text)
    assert len(nonces) == 2 and f"script-src 'nonce-{nonces[1]}'" in page.headers["content-security-policy"]
    assert "http://" not in page.text and "https://" not in page.text  # works offline
    for example in examples:  # the photographs that ship
        assert example.headers["content-type"] == "image/jpeg" and len(example.content) < 60_000
    assert page.text.count("CC BY 2.0") >= 6
