"""A UNIMO model behind the server: it reads a detector's regions, which a request brings as JSON or an example has."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
from corpora import files_in, pairs_of
from serving import files, png, served
from tiny_unimo import FEATURES, lively_unimo

from unimo.data.regions import image_regions
from unimo.inference import Pipeline
from unimo.regions.prepare import prepare_regions
from unimo.retrieval import build_index
from unimo.serve.collection import demo_collection, open_collection
from unimo.tokenizer import Tokenizer

CLOSE = {"rtol": 0, "atol": 1e-4}


def quiet(line: str) -> None:
    """Progress nobody reads."""


@pytest.fixture(scope="module")
def unimo():
    return Pipeline(lively_unimo(vocabulary=Tokenizer.vocab_size, matching=1), precision="fp32")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Eight pairs, and the regions of their images in a folder of their own."""
    folder = tmp_path_factory.mktemp("unimo")
    pairs = files_in(folder / "heldout", pairs_of(f"{i:03d}" for i in range(8)))
    options = {"feature_size": FEATURES, "words": 5, "max_regions": 5}
    prepare_regions("pairs", str(pairs), "grid", out=folder / "regions", say=quiet, **options)
    return folder


@pytest.fixture(scope="module")
def collection(unimo, pairs):
    regions = [str(pairs / "regions")]
    return open_collection(
        build_index(unimo, pairs / "index", pairs=str(pairs / "heldout"), regions=regions, say=quiet), unimo, quiet
    )


@pytest.fixture(scope="module")
def client(unimo, collection):
    with served(unimo, collection) as client:
        yield client


def as_json(width=100, height=80, boxes=((0, 0, 50, 40), (10, 10, 90, 70)), features=2 * ((0.5,) * FEATURES,)) -> bytes:
    return json.dumps({"width": width, "height": height, "boxes": boxes, "features": features}).encode()


def regions_of(data: bytes):
    given = json.loads(data)
    found = image_regions(given["features"], given["boxes"], given["width"], given["height"])
    found.features[0] = given.get("whole", found.features[0])
    return found


IMAGES = [
    as_json(),
    as_json(features=np.eye(2, FEATURES).tolist()),
    as_json(boxes=[[1, 2, 3, 4]], features=[[1] * FEATURES]),
]


def post(client, path, images=(), field="images", **fields):
    answer = client.post(path, data=fields, files=files(field, *images) or None)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_regions_of_a_request_are_answered_as_by_the_model_itself(client, unimo):
    seen, texts = [regions_of(data) for data in IMAGES], ["a red circle", "two cats"]
    found = post(client, "/embed", IMAGES, texts=texts)
    np.testing.assert_allclose(found["images"], unimo.encode_image(seen), **CLOSE)
    np.testing.assert_allclose(found["texts"], unimo.encode_text(texts), **CLOSE)
    assert post(client, "/caption", IMAGES, max_length=6)["captions"] == unimo.caption(seen, max_length=6)
    for by, expected in (("cosine", unimo.similarity(seen, texts)), ("matching", unimo.itm_score(seen, texts))):
        np.testing.assert_allclose(post(client, "/similarity", IMAGES, texts=texts, by=by)["scores"], expected, **CLOSE)
    for some in ([], IMAGES[:1]):
        found = post(client, "/fill-mask", some, "image", text="a [MASK] circle")
        assert found["tokens"] == [token for token, _ in unimo.fill_mask("a [MASK] circle", *seen[: len(some)])]
    found = post(client, "/classify", IMAGES, names=["dog", "owl"])["probabilities"]
    np.testing.assert_allclose(found, unimo.classify(seen, ["dog", "owl"]), **CLOSE)


def test_examples_bring_their_regions_and_find_themselves(client, unimo, collection):
    for i, example in enumerate(collection.examples):
        given = client.get(f"/examples/{i}/regions").content
        read = regions_of(given)
        np.testing.assert_allclose(read.features, example.regions.features, rtol=1e-6)
        np.testing.assert_allclose(read.boxes, example.regions.boxes, atol=1e-6)
        hits = post(client, "/search", [given], "image", only="images", thumbnails="true")["hits"]
        expected = collection.index.search(image=example.regions, only="images")
        np.testing.assert_allclose([hit["score"] for hit in hits], [hit.score for hit in expected], **CLOSE)
        assert max(hit["score"] for hit in hits if hit["key"] == example.title) > 0.999
        assert hits[0]["thumbnail"].startswith("data:image/png")
    text = {hit["key"] for hit in post(client, "/search", text="caption of 003", only="texts", rerank=0)["hits"]}
    assert text == {f"{i:03d}.png" for i in range(8)}
    assert post(client, "/search", text="caption of 003", only="images", rerank=4)["hits"][0]["fused"] is not None


F = FEATURES
NO_REGIONS = {
    "a photograph": (png(), "regions, not pixels"),
    "no JSON object": (b"[1, 2]", "regions, not pixels"),
    "a field missing": (b'{"width": 1, "height": 1, "boxes": []}', "features: Field required"),
    "nested without end": (b"[" * 10_000, "regions, not pixels"),
    "another detector": (as_json(features=[[1] * 8] * 2), "rows of 8"),
    "rows of two lengths": (as_json(features=[[1] * F, [1]]), "rows of 1, 7"),
    "a row too few": (as_json(features=[[1] * F]), "Not one feature row for each box"),
    "a word among the numbers": (as_json(boxes=[["x", 0, 1, 1]] * 2), "boxes.0.0"),
    "a box outside": (as_json(width=20), "A box lies outside its image"),
    "a box of two numbers": (as_json(boxes=[[0, 1]] * 2), "Not a table of boxes"),
    "no regions": (as_json(boxes=[], features=[]), "features of another detector"),
    "a mean of another detector": (as_json()[:-1] + b', "whole": [1, 2]}', "rows of 2, 7"),
    "too many regions": (as_json(boxes=[[0, 0, 1, 1]] * 101, features=[[1] * F] * 101), "at most 100"),
    "not finite": (as_json(features=[[float("nan")] * F] * 2), "features.0.0: "),
    "larger than any detector's": (as_json(features=[[1e30] * F] * 2), "less than or equal to 65504"),
    "a box that is not finite": (as_json(boxes=[[0, 0, float("nan"), 1]] * 2), "not finite"),
    "no size": (as_json(width=1e-300), "width: "),
    "too many bytes": (b" " * 60_000, "60000 bytes"),
}


@pytest.mark.parametrize("case", NO_REGIONS, ids=str)
def test_what_is_no_regions_is_refused(client, case):
    data, part = NO_REGIONS[case]
    answer = client.post("/caption", files=files("images", data))
    assert answer.status_code == 422 and part in answer.text, answer.text
    assert answer.json()["error"]["where"].startswith("0.png")


def test_a_broken_file_of_regions_is_never_a_fault_of_the_server(client):
    rng, statuses = random.Random(0), set()
    for _ in range(150):
        data = bytearray(IMAGES[1])
        for _ in range(rng.randrange(1, 4)):
            i = rng.randrange(len(data))
            data[i : i + rng.randrange(3)] = rng.choice([b"9", b"-", b"e9", b"null", b"]", rng.randbytes(2)])
        answer = client.post("/embed", files=files("images", bytes(data)))
        statuses.add(answer.status_code)
    assert statuses == {200, 422}


def test_what_a_detector_would_be_needed_for_is_refused_and_named(client, unimo):
    answer = client.post("/caption", files=files("images", IMAGES[0]), data={"attention": "true"})
    assert answer.status_code == 422 and "this model reads regions" in answer.text
    assert client.post("/dictionary", data={"text": "a"}).status_code == 404
    with served(unimo) as alone:  # without an index of images there is no example
        assert alone.get("/examples/0/regions").status_code == 404
        assert "Examples need an index of images" in alone.get("/").text


def test_the_page_says_what_it_takes_and_has_no_tab_of_a_dictionary(client):
    page = client.get("/").text
    assert f"regions ({FEATURES} numbers each), not pixels" in re.sub(r"\s+", " ", page)
    assert 'id="tab-dictionary"' not in page and 'id="tab-ask"' in page and 'accept=".json"' in page
    assert client.get("/health").json()["model"]["region_size"] == FEATURES


def test_an_index_of_texts_alone_is_searched(unimo, tmp_path):
    (tmp_path / "texts.txt").write_text("a red circle\n\ntwo cats on a sofa\n")
    out = build_index(unimo, tmp_path / "index", texts=str(tmp_path / "texts.txt"), say=quiet)
    with served(unimo, open_collection(out, unimo, quiet)) as client:
        hits = post(client, "/search", text="two cats on a sofa", thumbnails="true")["hits"]
        assert "two cats on a sofa" in hits[0]["text"] and hits[0]["thumbnail"] is None


def test_a_run_on_the_generated_world_is_searched_in_its_held_out_scenes(unimo, pairs, tmp_path):
    data = {"pairs": [str(pairs / "pairs")], "regions": [str(pairs / "regions")]}
    demo = Pipeline(unimo.model, precision="fp32", facts={"settings": {"data": data}})
    found = demo_collection(demo, tmp_path, quiet)
    assert found.index.rows == {"image": 8, "text": 8} and len(found.examples) == 6
    assert all(len(example.regions.features) > 1 for example in found.examples)
