"""Neighbours are the same however often the work was killed, never the pair itself, and refuse other data."""

from __future__ import annotations

import functools
import io
import json
import re
import signal
from html.parser import HTMLParser
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from corpora import tar_of
from dying import Countdown, ended, fork
from PIL import Image
from tiny_unimo2 import lively_model

from unimo import sidecar
from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import Corpus, open_corpus
from unimo.errors import DataError, ResourceError, UsageError
from unimo.inference import Pipeline
from unimo.neighbours import images as neighbour_images
from unimo.neighbours.page import show
from unimo.neighbours.prepare import NeighbourSettings, neighbours, prepare_neighbours
from unimo.neighbours.sentences import token_spans
from unimo.neighbours.store import Neighbours
from unimo.sentences import words
from unimo.tokenizer import Tokenizer

TOKENIZER = Tokenizer.default()
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 230)}
DOCUMENTS = [
    "The red ball lies on the floor. Nobody sees the red ball! It is late.\n\nA green tree stands in the garden.",
    "A red ball on a table. The blue sea is deep, and the sea is cold. Fish swim in the blue water.",
    "The stock market fell sharply on Monday morning. Prices of oil went up again last week.",
    "A green tree stands in the garden. Old men sit below the green tree all day long.",
]
FEW = NeighbourSettings(images=3, sentences=3)


def image(colour: str, number: int) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 20, (12, 12, 3))
    Image.fromarray((np.array(COLOURS[colour]) + noise).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_pairs(path: Path, rows: list[tuple[str, bytes, list[str]]]) -> None:
    members = [
        (f"{key}.{end}", data)
        for key, image, captions in rows
        for end, data in (("png", image), ("json", json.dumps({"captions": captions}).encode()))
    ]
    tar_of(path, members)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> tuple[Corpus, Corpus, Corpus]:
    """Six pairs in two shards, nine images (the first is that of the first pair), four documents."""
    folder = tmp_path_factory.mktemp("corpora")
    captions = {
        "red": ["a red ball on a table", "The ball is red."],
        "green": ["a green tree"],
        "blue": ["fish in the blue sea"],
    }
    for shard in range(2):
        rows = [(f"{shard}{colour}", image(colour, shard), captions[colour]) for colour in COLOURS]
        write_pairs(folder / f"pairs-{shard}.tar", rows)
    others = [(f"{n}{colour}.png", image(colour, 10 * n)) for n in range(3) for colour in COLOURS]
    tar_of(folder / "images.tar", others)
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    names = {"pairs": "pairs-*.tar", "images": "images.tar", "texts": "texts.jsonl"}
    opened = [open_corpus(kind, folder / name, tokenizer=TOKENIZER) for kind, name in names.items()]  # type: ignore[arg-type]
    return opened[0], opened[1], opened[2]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(neighbour_images, "_BLOCK", 4)
    monkeypatch.setattr(neighbour_images, "_QUERIES", 2)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


quietly = functools.partial(prepare_neighbours, settings=FEW, say=lambda line: None)


def sentence_texts(near: Neighbours, i: int) -> list[str]:
    return [TOKENIZER.decode(near.tokens(int(number))) for number in near.sentences(i)]


# ---- what is found


def test_neighbours_are_alike_and_never_the_pair_itself(corpora, tmp_path):
    pairs, images, texts = corpora
    done = quietly(pairs, images, texts, tmp_path)
    assert done["pairs"] == 6 and done["computed"] == 2
    near = Neighbours.open(tmp_path, pairs, images, texts)
    for i, key in enumerate(pairs.keys):
        alike = [images.keys[int(other)] for other in near.images(i)]
        own = {"0": "0"}.get(key[0])  # image 0 of a colour is the very image of the first shard's pair
        assert len(alike) == (2 if own else 3) or alike[2][1:] != key[1:]
        assert all(name[1:] == key[1:] for name in alike[: 2 if own else 3])
        assert not own or f"0{key[1:]}" not in alike
    about_the_ball = {" Nobody sees the red ball!", "The red ball lies on the floor."}
    assert about_the_ball < set(sentence_texts(near, 0))
    assert sentence_texts(near, 1)[0].strip() == "A green tree stands in the garden."
    about_the_sea = {" The blue sea is deep, and the sea is cold.", " Fish swim in the blue water."}
    assert about_the_sea == set(sentence_texts(near, 2)[:2])


def test_the_caption_itself_and_repeated_sentences_are_left_out(corpora, tmp_path):
    pairs, _, texts = corpora
    quietly(pairs, None, texts, tmp_path, settings=NeighbourSettings(sentences=100, min_words=1))
    near = Neighbours.open(tmp_path, pairs, texts=texts)
    for i in range(len(pairs)):
        found = [" ".join(words(text)) for text in sentence_texts(near, i)]
        assert len(set(found)) == len(found) > 0
        assert not set(found) & {" ".join(words(text)) for text in pairs.captions(i)}
    assert "a green tree stands in the garden" in [" ".join(words(text)) for text in sentence_texts(near, 1)]


def test_a_model_ranks_sentences_and_sees_images(corpora, tmp_path):
    pairs, images, texts = corpora
    model = Pipeline(lively_model(vocabulary=Tokenizer.vocab_size), precision="fp32")
    quietly(pairs, images, texts, tmp_path, model=model)
    near = Neighbours.open(tmp_path, pairs, images, texts)
    caption = model.encode_text(pairs.captions(1))[0]
    found = model.encode_text([near.tokens(int(number)) for number in near.sentences(1)]) @ caption
    assert len(found) == 3 and (np.diff(found) <= 1e-6).all()
    own = model.encode_image([pairs.image_bytes(1)])[0]
    cosines = model.encode_image([images.image_bytes(i) for i in range(9)]) @ own
    best = [i for i in np.argsort(-cosines) if images.image_bytes(i) != pairs.image_bytes(1)][:3]
    assert near.images(1).tolist() == best


def test_a_pair_that_is_not_there_is_refused(corpora, tmp_path):
    pairs, images, texts = corpora
    quietly(pairs, images, texts, tmp_path)
    near = Neighbours.open(tmp_path, pairs, images, texts)
    with pytest.raises(IndexError):
        near.images(6)


# ---- killed and started again


def test_killed_at_any_event_it_goes_on_to_the_same_bytes(corpora, tmp_path):
    quietly(*corpora, tmp_path / "whole")
    expected, code = bytes_of(tmp_path / "whole"), -1
    for at in count(1, 7):
        out = tmp_path / str(at)
        code = ended(fork(lambda: (Countdown(at), quietly(*corpora, out))))  # noqa: B023
        quietly(*corpora, out)
        assert bytes_of(out) == expected
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert at > 30


def test_two_processes_do_not_prepare_one_folder(corpora, tmp_path):
    with sidecar.workspace(tmp_path / "neighbours"), pytest.raises(ResourceError, match="another process"):
        quietly(*corpora, tmp_path)


def test_what_is_there_is_kept_and_what_is_damaged_is_made_again(corpora, tmp_path):
    quietly(*corpora, tmp_path)
    expected = bytes_of(tmp_path)
    assert quietly(*corpora, tmp_path)["computed"] == 0
    part = tmp_path / "00001.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(DataError, match="not a file of neighbours that this version reads"):
        Neighbours.open(tmp_path, *corpora)
    assert quietly(*corpora, tmp_path)["computed"] == 1
    assert bytes_of(tmp_path) == expected
    assert quietly(*corpora, tmp_path, settings=NeighbourSettings(images=2, sentences=3))["computed"] == 2


# ---- what does not fit


def test_other_data_is_refused(corpora, tmp_path):
    pairs, images, texts = corpora
    quietly(*corpora, tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "t.txt").write_text("Some other text stands here.")
    other = open_corpus("texts", tmp_path / "other", tokenizer=TOKENIZER)
    for wrong, what in [((pairs, images, other), "texts"), ((pairs, None, texts), "images")]:
        with pytest.raises(DataError, match=f"neighbours belong to other {what}"):
            Neighbours.open(tmp_path, *wrong)
    old = (tmp_path / "00000.safetensors").read_bytes()
    quietly(*corpora, tmp_path, settings=NeighbourSettings(images=3, sentences=3, min_words=6))
    (tmp_path / "00000.safetensors").write_bytes(old)  # as if killed between the parts of other settings
    with pytest.raises(DataError, match="different settings"):
        Neighbours.open(tmp_path, *corpora)
    (tmp_path / "00001.safetensors").unlink()
    with pytest.raises(DataError, match="incomplete"):
        Neighbours.open(tmp_path, *corpora)


@pytest.mark.parametrize("absent", ["images", "texts"])
def test_one_side_may_be_absent(corpora, tmp_path, absent):
    pairs, images, texts = corpora
    sides = {"images": images, "texts": texts, absent: None}
    quietly(pairs, sides["images"], sides["texts"], tmp_path)
    near = Neighbours.open(tmp_path, pairs, sides["images"], sides["texts"])
    found = {"images": len(near.images(1)), "texts": len(near.sentences(1))}
    assert found.pop(absent) == 0 and all(found.values())
    show(tmp_path, pairs, sides["images"], sides["texts"], tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert page.tags.count("img") == 6 + len(page.texts["figcaption"])
    assert bool(page.texts["figcaption"]) == (absent == "texts")


def test_nothing_to_search_in(corpora, tmp_path):
    with pytest.raises(UsageError, match="nothing to search in"):
        quietly(corpora[0], None, None, tmp_path)
    with pytest.raises(UsageError, match=r"images.*at least 1"):
        quietly(corpora[0], corpora[1], None, tmp_path, settings=NeighbourSettings(images=0))
    with pytest.raises(UsageError, match="labels of other images"):
        quietly(corpora[0], corpora[1], None, tmp_path, labels=([np.array([0])] * 6, [np.array([0])] * 8))


def test_a_collection_of_the_pairs_own_image_alone(tmp_path):
    write_pairs(tmp_path / "pairs.tar", [("one", image("red", 0), ["!!!"])])
    tar_of(tmp_path / "images.tar", [("same.png", image("red", 0))])
    (tmp_path / "texts.txt").write_text("One lonely sentence stands here.")
    bad_samples = BadSamples(tmp_path / "bad.jsonl")
    paths = [tmp_path / name for name in ("pairs.tar", "images.tar", "texts.txt", "out")]
    lines: list[str] = []
    done = neighbours(*paths, bad_samples=bad_samples, say=lines.append, page=tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert page.texts["h2"] == ["!!!"] and page.texts["li"] == ["none", "none"]
    assert (done["image"], done["sentence"]) == (0, 0)
    assert bad_samples.summary()["reasons"] == {"pair without a word to search by": 1}
    assert '"key": "one"' in (tmp_path / "bad.jsonl").read_text()
    assert "images/s" in "".join(lines) and "sentences/s" in "".join(lines) and "pairs/s" in "".join(lines)
    pairs, images, texts = (open_corpus(k, p, tokenizer=TOKENIZER) for k, p in zip(("pairs", "images", "texts"), paths))
    near = Neighbours.open(tmp_path / "out", pairs, images, texts)
    assert not len(near.images(0)) and not len(near.sentences(0))


# ---- tokens


@pytest.mark.parametrize(
    "text", [*DOCUMENTS, " One. Two.\n\n Three (3).\n\n\nFour… \t Five!", "Ünï. Çode ☃. “Quoted.” End ", ""]
)
def test_sentences_are_stretches_of_the_documents_tokens(text):
    ids = np.array(TOKENIZER.encode(text), np.uint16)
    spans = token_spans(text, ids, TOKENIZER)
    assert spans is not None
    for (begin, end), (first, last) in spans:
        found = TOKENIZER.decode(ids[first:last])
        assert found.strip() == text[begin:end].strip() and not found.startswith("\n")
    assert token_spans(text + "x", ids, TOKENIZER) is None


# ---- looking and judging


class Page(HTMLParser):
    """How many articles and images, and every caption below an image and every entry of a list."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.inside: str = ""
        self.texts: dict[str, list[str]] = {"li": [], "figcaption": [], "h2": []}
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag in self.texts:
            self.inside = tag
            self.texts[tag].append("")

    def handle_endtag(self, tag):
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data):
        if self.inside:
            self.texts[self.inside][-1] += data


def test_a_page_shows_pairs_with_their_neighbours(corpora, tmp_path):
    quietly(*corpora, tmp_path / "out")
    show(tmp_path / "out", *corpora, tmp_path / "page.html", n=6, shown=2)
    page, near = Page(tmp_path / "page.html"), Neighbours.open(tmp_path / "out", *corpora)
    assert page.tags.count("article") == 6 and page.tags.count("img") == 6 + 6 * 2
    assert sorted(page.texts["h2"]) == sorted(corpora[0].text(i) for i in range(6))
    below = [corpora[1].keys[int(k)] for i in range(6) for k in near.images(i)[:2]]
    assert sorted(text.split(" ", 1)[1] for text in page.texts["figcaption"]) == sorted(below)
    shown = {text.strip() for i in range(6) for text in sentence_texts(near, i)[:2]}
    assert shown == {text.rsplit(" ", 1)[0] for text in page.texts["li"]} - {"The ball is"}  # a caption, no sentence
    raw = (tmp_path / "page.html").read_text()
    assert not re.search(r"https?:|<script|<link|@import|src=\"(?!data:)", raw)
    show(tmp_path / "out", *corpora, tmp_path / "same.html", n=6, shown=2)
    assert (tmp_path / "same.html").read_text() == raw
    show(tmp_path / "out", *corpora, tmp_path / "other.html", n=2, seed=1)
    assert Page(tmp_path / "other.html").tags.count("article") == 2
    with pytest.raises(UsageError, match="nothing to show"):
        show(tmp_path / "out", *corpora, tmp_path / "none.html", n=0)
