"""A corpus holds exactly the good samples of what it was offered, says where the others are, and never changes
unseen."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import random
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pyarrow
import pytest
from corpora import (
    Letters,
    files_in,
    image,
    images_of,
    jsonl,
    loosely,
    opened,
    pair,
    pairs_tar,
    tar_of,
    texts_of,
)
from PIL import Image
from pyarrow import parquet

from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.check import check
from unimo.corpus.corpus import EXPECTED, Fields, open_corpus
from unimo.errors import DataError, UsageError

# ---- what is read


def test_pairs_from_tars(tmp_path):
    pairs_tar(tmp_path / "b.tar", 3)
    tar_of(tmp_path / "a.tar", [("x.JPG", image(9, "JPEG")), ("x.txt", b"one\n\ntwo\n"), ("x.cls", b"3")])
    corpus, bad = loosely("pairs", tmp_path)
    assert list(corpus.keys) == ["x", "000", "001", "002"]  # shards in sorted order
    assert corpus.caption_offsets.tolist() == [0, 2, 4, 6, 8]
    assert [corpus.text(0, j) for j in range(2)] == ["one", "two"]
    assert corpus.sizes.tolist() == [[12, 8]] * 4 and corpus.sizes.dtype == np.int32
    for i in range(4):
        for j, caption in enumerate(corpus.sample(i).texts):
            tokens = corpus.tokens(i, j)
            assert tokens.dtype == np.uint16 and bytes(tokens.astype(np.uint8)).decode() == caption
            assert corpus.token_counts[corpus.caption_offsets[i] + j] == len(tokens)
    assert corpus.image_bytes(2) == image(1) and corpus.meta(2)["n"] == 1 and corpus.meta(0) == {}
    assert bad.notes == {"extra members: ending in .cls, not read as pairs": 1, "blank captions": 1}
    assert bad.summary()["examples"]["extra members: ending in .cls, not read as pairs"] == ["x.cls"]
    with pytest.raises(IndexError):
        corpus.text(0, 2)  # never the next item's caption


def test_pairs_from_a_folder_and_jsonl(tmp_path):
    files_in(tmp_path, {f"img/{i}.png": image(i) for i in range(3)})
    rows = [
        {"image": "img/0.png", "caption": "zero"},
        {"image": "./img/1.png", "captions": ["one", "uno"]},
        {"image": "img/0.png", "caption": "null", "extra": 1},
        {"image": "../outside.png", "caption": "x"},
        {"image": "img/absent.png", "caption": "x"},
        {"caption": "no image named"},
    ]
    (tmp_path / "captions.jsonl").write_bytes(jsonl(rows))
    corpus, bad = loosely("pairs", tmp_path)
    assert [(corpus.keys[i], corpus.sample(i).texts) for i in range(2)] == [
        ("img/0.png", ("zero", "null")),
        ("img/1.png", ("one", "uno")),
    ]
    assert corpus.image_bytes(1) == image(1) and corpus.meta(0) == rows[0]
    whats = ("image path leaves the folder", "image is missing", "field is missing")
    assert bad.summary()["reasons"] == dict.fromkeys(whats, 1)
    assert bad.notes["images that no table names"] == 1  # img/2.png: no fault of anybody
    (tmp_path / "captions.jsonl").write_bytes(jsonl([{"picture": "img/2.png", "says": "two"}]))
    corpus, _ = loosely("pairs", tmp_path, fields=Fields(image=("picture",), captions=("says",)))
    assert corpus.sample(0).texts == ("two",)


def test_pairs_from_parquet(tmp_path):
    rows = [{"key": f"k{i}", "jpg": image(i, "JPEG"), "caption": f"c{i}", "url": "u"} for i in range(5)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=2)
    nested = [{"image": {"bytes": image(7), "path": "x.png"}, "text": "seven"}]
    parquet.write_table(pyarrow.Table.from_pylist(nested), tmp_path / "b.parquet")
    corpus, _ = loosely("pairs", tmp_path)
    assert list(corpus.keys) == ["k0", "k1", "k2", "k3", "k4", "b.parquet:0"]
    assert images_of(corpus) == [*(row["jpg"] for row in rows), image(7)] and corpus.text(5) == "seven"
    assert corpus.meta(3) == {"key": "k3", "caption": "c3", "url": "u"}


OTHERS = {"id": "7", "url": "http://x/1", "title": "one, two"}


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.json", "t.jsonl"])
@pytest.mark.parametrize("kind", ["pairs", "texts"])
def test_other_columns_reach_the_meta_of_a_sample_whatever_the_table(kind, name, tmp_path):
    said = {"caption": "a dog", "image": "0.png"} if kind == "pairs" else {"text": "a dog"}
    files_in(tmp_path, {"0.png": image(0), "1.png": image(1)})
    rows = [said | OTHERS, said | {"image": "1.png", "id": "8", "url": "", "title": ""}]
    if name.endswith("sv"):
        header, between = list(rows[0] | rows[1]), "\t" if name == "t.tsv" else ";"
        lines = [header, *([row.get(column, "") for column in header] for row in rows)]
        data = "".join(between.join(line) + "\n" for line in lines).encode()
    else:
        data = jsonl(rows) if name.endswith("l") else json.dumps(rows).encode()
    (tmp_path / name).write_bytes(data)
    for _ in range(2):  # built, then from its index
        corpus, _ = loosely(kind, tmp_path / name)
        assert OTHERS.items() <= corpus.sample(0).meta.items() and corpus.meta(1)["id"] == "8"


def test_images_from_folders_and_tars(tmp_path):
    strange = "cats/ü b/-1 🐈.png"
    files_in(tmp_path, {strange: image(1), "cats/notes.md": b"ignored", ".hidden.png": b"ignored"})
    labelled = {"a.png": image(2), "a.json": b'{"label": 4, "label_name": "tabby"}', "b.png": image(3)}
    tar_of(tmp_path / "t.tar", labelled)
    corpus, _ = loosely("images", tmp_path)
    assert list(corpus.keys) == [strange, "a", "b"] and images_of(corpus) == [image(i) for i in (1, 2, 3)]
    assert corpus.labels == [None, "tabby", None] and corpus.token_counts.size == 0
    assert loosely("images", tmp_path / "cats")[0].labels is None


def test_texts_of_every_form(tmp_path):
    files_in(tmp_path, {"a/two.txt": "\ufeffErste Zeile\r\n\r\nzweite ü\n".encode()})
    (tmp_path / "rows.jsonl").write_text('{"text": "one", "title": "T"}\n\n{"text": "two"}\n')
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(b'{"text": "first"}\n{"text": "second"}'))
    corpus, _ = loosely("texts", tmp_path)
    texts = texts_of(corpus)
    assert texts == ["Erste Zeile\r\n\r\nzweite ü\n", "first", "second", "one", "two"]
    assert [bytes(corpus.tokens(i).astype(np.uint8)).decode() for i in range(5)] == texts
    assert corpus.token_counts.tolist() == [len(text.encode()) for text in texts]
    assert corpus.meta(3) == {"title": "T"} and corpus.keys[4] == "rows.jsonl:3" and corpus.caption_offsets is None


def test_paths_may_be_files_globs_or_lists(tmp_path):
    files_in(tmp_path, {f"{name}[1].jsonl": jsonl([{"text": name}]) for name in "abc"})
    for paths in (tmp_path, str(tmp_path / "*.jsonl"), sorted(tmp_path.glob("*"), reverse=True)):
        assert texts_of(loosely("texts", paths)[0]) == ["a", "b", "c"]
    assert loosely("texts", tmp_path / "b[1].jsonl")[0].text(0) == "b"


def test_verify_header_reads_the_same_sizes(tmp_path):
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(stream, "JPEG", exif=exif)
    files_in(tmp_path, {"turned.jpg": stream.getvalue(), "plain.png": image(0)})
    for level in ("header", "decode"):
        corpus, _ = loosely("images", tmp_path, verify=level, index_dir=tmp_path / "index")
        assert corpus.sizes.tolist() == [[12, 8], [20, 30]]


# ---- what is refused


@pytest.mark.parametrize("kind", EXPECTED)
def test_missing_empty_and_wrong_folders_say_what_is_expected(kind, tmp_path):
    (tmp_path / "empty").mkdir()
    files_in(tmp_path, {"wrong/thesis.docx": b""})
    for name in ("emty", "empty", "wrong", "wrong/thesis.docx", "*.tar"):
        with pytest.raises(DataError) as caught:
            open_corpus(kind, tmp_path / name, tokenizer=Letters())
        assert caught.value.expected == EXPECTED[kind] and caught.value.do
        assert name != "emty" or "empty" in caught.value.do
        assert name != "wrong" or ".docx" in caught.value.got


def test_paths_that_run_or_fetch_are_refused_without_doing_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    watched = ("subprocess", "os.system", "socket")
    sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(watched) else None)
    for path in ("pipe:touch ran", "ftp://host/a.tar", "ssh://b/{0..3}.tar", "file:///etc/passwd", "pipe:cat a.tar"):
        with pytest.raises(UsageError):
            open_corpus("pairs", [path], tokenizer=Letters())
    assert not seen and not list(tmp_path.iterdir())


def test_the_same_shard_twice_is_refused(tmp_path):
    path = pairs_tar(tmp_path / "a.tar", 3)
    with pytest.raises(DataError, match="twice"):
        loosely("pairs", [path, tmp_path])
    (tmp_path / "copy.tar").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="same content"):
        loosely("pairs", tmp_path)


def test_every_bad_sample_is_named_and_only_bad_ones(tmp_path):
    good = [member for i in range(5) for member in pair(i)]
    cases = {
        "no-image": {"json": b'{"caption": "x"}'},
        "no-caption": {"png": image(50)},
        "blank": {"png": image(51), "json": b'{"captions": ["", "  "]}'},
        "cut": {"jpg": image(52, "JPEG", (90, 90))[:-900], "txt": b"x"},
        "html": {"jpg": b"<html>", "txt": b"x"},
        "zero": {"jpg": b"", "txt": b"x"},
        "ppm": {"jpg": image(53, "PPM"), "txt": b"x"},
        "latin": {"png": image(54), "txt": "größe".encode("latin-1")},
        "nan": {"png": image(55), "json": b'{"caption": NaN}'},
        "half": {"png": image(56), "json": b'{"caption": "\\ud83d"}'},
        "number": {"png": image(57), "json": b'{"captions": [3]}'},
        "003": {"png": image(58), "txt": b"second of this key"},
    }
    bad_ones = [(f"{key}.{ending}", data) for key, files in cases.items() for ending, data in files.items()]
    path = tar_of(tmp_path / "a.tar", good + bad_ones)
    bad = BadSamples(tmp_path / "bad_samples.jsonl")
    corpus, _ = loosely("pairs", path, bad_samples=bad)
    assert list(corpus.keys) == [f"{i:03d}" for i in range(5)] and corpus.image_bytes(3) == image(3)
    entries = [json.loads(line) for line in bad.path.read_text().splitlines()]
    assert sorted(entry["key"] for entry in entries) == sorted(cases)
    assert all(entry["key"] in entry["where"] and entry["shard"] == str(path) for entry in entries)
    again, reopened = loosely("pairs", path)  # from the stored index: the same account
    assert reopened.summary()["reasons"] == bad.summary()["reasons"] and again.fingerprint == corpus.fingerprint
    with pytest.raises(DataError, match=r"too many bad samples.*12 of 17") as caught:
        opened("pairs", path, bad_samples=bad)
    assert "bad_samples.jsonl" in str(caught.value.where)


def test_nothing_usable_is_an_error_even_when_bad_samples_are_allowed(tmp_path):
    for members, reason in ({"a.jpg": b"x", "a.txt": b"x"}, "no usable sample"), ({}, "hold no samples"):
        tar_of(tmp_path / "a.tar", members)
        with pytest.raises(DataError, match=reason):
            loosely("pairs", tmp_path)


def test_code_in_data_is_never_looked_at(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    hostile = [(f"../../000.{ending}", pickle.dumps(Bomb())) for ending in ("pyd", "pkl", "pth", "py", "cls")]
    corpus, bad = loosely("pairs", tar_of(tmp_path / "a.tar", pair(0) + hostile))
    assert corpus.sample(0).key == "000" and sum(bad.notes.values()) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "a.tar.pairs.index.safetensors"]


def test_pipes_and_dangling_links_among_images_are_quarantined(tmp_path):
    (tmp_path / "good.png").write_bytes(image(0))
    (tmp_path / "link.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(tmp_path / "pipe.png")
    corpus, bad = loosely("images", tmp_path)
    assert list(corpus.keys) == ["good.png"]
    assert bad.summary()["reasons"] == {"file is missing": 1, "not a regular file": 1}


# ---- what changed


def test_the_index_is_reused_and_rebuilt_when_anything_it_depends_on_differs(tmp_path):
    path = pairs_tar(tmp_path / "a.tar", 4)
    said = []
    first, again = (loosely("pairs", path, on_shard=said.append)[0].fingerprint for _ in range(2))
    assert [row["built"] for row in said] == [True, False] and first == again
    other, _ = loosely("pairs", path, tokenizer=Letters("other"), on_shard=said.append)
    fields, _ = loosely("pairs", path, fields=Fields(captions=("captions",)), on_shard=said.append)
    tar_of(path, [member for i in (3, 2, 1, 0) for member in pair(i)])
    changed, _ = loosely("pairs", path, on_shard=said.append)
    assert list(changed.keys) == ["003", "002", "001", "000"]
    (tmp_path / "a.tar.pairs.index.safetensors").write_bytes(b"garbage")
    rebuilt, _ = loosely("pairs", path, on_shard=said.append)
    assert all(row["built"] for row in said[2:]) and len(said) == 6 and rebuilt.fingerprint == changed.fingerprint
    assert len({first, other.fingerprint, fields.fingerprint, changed.fingerprint}) == 4


def test_the_fingerprint_knows_contents_not_places_or_times(tmp_path):
    files_in(tmp_path, {"one/x.png": image(0), "two/x.png": image(0)})
    os.utime(tmp_path / "two/x.png", (1, 0))
    one, two = (loosely("images", tmp_path / name)[0].fingerprint for name in ("one", "two"))
    (tmp_path / "two/x.png").write_bytes(image(1))
    assert one == two != loosely("images", tmp_path / "two")[0].fingerprint


def test_a_change_that_hides_is_found_on_reading_and_by_recheck(tmp_path):
    """Same size, same time of change, one bit of one image."""
    path = pairs_tar(tmp_path / "a.tar", 12)
    corpus, _ = loosely("pairs", path)
    status, body = path.stat(), bytearray(path.read_bytes())
    body[body.index(image(7)) + 60] ^= 1
    path.write_bytes(body)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    for each in (corpus, loosely("pairs", path)[0]):
        with pytest.raises(DataError, match=r"changed since it was indexed.*key 007.*data check"):
            each.image_bytes(7)
        assert each.image_bytes(6) == image(6)
    rows = check("pairs", path, tokenizer=Letters(), max_bad_fraction=1, say=lambda line: None)
    assert rows[0]["built"] and rows[0]["offered"] == 12


def test_damage_since_the_former_index_is_counted_by_key(tmp_path):
    path = pairs_tar(tmp_path / "a.tar", 40)
    loosely("pairs", path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    corpus, bad = loosely("pairs", path)
    reasons = bad.summary()["reasons"]
    # of the 40 each is delivered, lost by name, or the one whose caption was cut off
    lost = reasons["sample lost in a damaged stretch"] + reasons.get("image without caption", 0)
    assert len(corpus) + lost == 40 and reasons["tar is cut short"] >= 1


@pytest.mark.parametrize("kind", ["images", "pairs"])
def test_mutated_shards_lose_nothing_in_silence(kind, tmp_path):
    """Mutated before indexing: every sample is delivered intact, quarantined, or inside a reported stretch."""
    count, losses, rng = 12, 0, random.Random(0)
    data = pairs_tar(tmp_path / "a.tar", count).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        headers = [member.offset for member in tar]
    images = {hashlib.sha256(image(i)).hexdigest(): f"{i:03d}" for i in range(count)}
    for number in range(120):
        body, way = bytearray(data), number % 4
        if way == 0:
            body[rng.choice(headers) + rng.randrange(345)] ^= 1 << rng.randrange(8)
        elif way == 1:
            del body[rng.randrange(1, len(data.rstrip(b"\0"))) :]
        elif way == 2:
            begin = rng.choice(headers)
            body[begin : begin + 512] = bytes(512)
        else:
            begin = rng.randrange(len(headers) - 3)
            body[headers[begin] : headers[begin + 2]] = rng.randbytes(headers[begin + 2] - headers[begin])
        (tmp_path / "b.tar").write_bytes(body)
        bad = BadSamples()
        try:
            corpus, _ = loosely(kind, tmp_path / "b.tar", bad_samples=bad, verify="header")
            delivered = [hashlib.sha256(each).hexdigest() for each in images_of(corpus)]
            assert all(images[digest] == key for digest, key in zip(delivered, corpus.keys))
        except DataError:
            delivered = []
        assert bad.offered == bad.used + bad.quarantined
        if len(delivered) < count:
            losses += 1
            assert bad.quarantined >= (1 if way in (1, 3) else count - len(delivered)), (number, way)
    assert losses > 40


def test_payload_flips_behind_an_index_are_all_found(tmp_path):
    path = pairs_tar(tmp_path / "a.tar", 6)
    corpus, _ = loosely("pairs", path)
    data, rng = path.read_bytes(), random.Random(0)
    reads = ((corpus.image_bytes, corpus._image_at), (corpus.meta, corpus._record_at))
    for _ in range(150):
        (read, places), i = rng.choice(reads), rng.randrange(6)
        position = int(places[i, 0]) + rng.randrange(int(places[i, 1]))
        with path.open("r+b") as stream:
            stream.seek(position)
            stream.write(bytes([data[position] ^ 1 << rng.randrange(8)]))
        with pytest.raises(DataError, match="changed since"):
            read(i)
        with path.open("r+b") as stream:
            stream.seek(position)
            stream.write(data[position : position + 1])
    assert images_of(corpus) == [image(i) for i in range(6)]


# ---- workers and real shards


def _digests(corpus):
    return [hashlib.sha256(corpus.image_bytes(i)).hexdigest() + corpus.text(i, 1) for i in range(len(corpus))]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_corpus_works_in_workers(method, tmp_path):
    corpus, _ = loosely("pairs", pairs_tar(tmp_path / "a.tar", 5))
    expected = _digests(corpus)
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        assert [child.result() for child in [pool.submit(_digests, corpus) for _ in range(2)]] == [expected, expected]


def test_real_shards_agree_with_tarfile(shared, tmp_path):
    tokenizer = pytest.importorskip("unimo.tokenizer").Tokenizer.default()
    path = shared / "data" / "flickr8k" / "extra-00000.tar"
    corpus = open_corpus("pairs", path, tokenizer=tokenizer, index_dir=tmp_path)
    with tarfile.open(path) as tar:
        expected = {member.name: tar.extractfile(member).read() for member in tar}
    assert len(corpus) == 91 == len(expected) // 2
    for i, key in enumerate(corpus.keys):
        meta = json.loads(expected[key + ".json"])
        assert corpus.image_bytes(i) == expected[key + ".jpg"] and corpus.meta(i) == meta
        assert corpus.sizes[i].tolist() == [meta["width"], meta["height"]]
        assert list(corpus.sample(i).texts) == [caption.strip() for caption in meta["captions"]]
        assert tokenizer.decode(corpus.tokens(i, 2)) == corpus.text(i, 2)
