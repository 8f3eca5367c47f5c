"""A corpus holds exactly the good samples of what it was offered, says where the others are, and never
changes unseen."""

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
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unimo.corpus.bad_samples import Ledger
from unimo.corpus.check import index
from unimo.corpus.corpus import EXPECTED, Fields, open_corpus
from unimo.errors import DataError, UsageError


class Letters:
    """A stand-in tokenizer that can be checked by eye: one id per UTF-8 byte."""

    def __init__(self, fingerprint="letters"):
        self.fingerprint = fingerprint

    def encode_batch(self, texts):
        return [list(text.encode()) for text in texts]


LETTERS = Letters()


def image(seed: int, form="PNG", size=(12, 8)) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(
        stream, form
    )
    return stream.getvalue()


def write_tar(path: Path, members, form=tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pair(i: int, captions=None):
    captions = captions or [f"caption {i} a", f"caption {i} b ü"]
    return [
        (f"{i:03d}.png", image(i)),
        (f"{i:03d}.json", json.dumps({"captions": captions, "n": i}).encode()),
    ]


def pairs_tar(path: Path, count=30) -> Path:
    return write_tar(path, [member for i in range(count) for member in pair(i)])


def open_loosely(kind, paths, **options):
    """(corpus, ledger) whatever the share of bad samples."""
    ledger = options.pop("ledger", None) or Ledger()
    corpus = open_corpus(kind, paths, tokenizer=LETTERS, ledger=ledger, max_bad_fraction=1.0, **options)
    assert ledger.offered == ledger.used + ledger.quarantined and ledger.used == len(corpus)
    return corpus, ledger


# --- what is read ---------------------------------------------------------------------------------


def test_pairs_from_tars(tmp_path):
    pairs_tar(tmp_path / "b.tar", 3)
    write_tar(tmp_path / "a.tar", [("x.JPG", image(9, "JPEG")), ("x.txt", b"one\n\ntwo\n"), ("x.cls", b"3")])
    corpus, ledger = open_loosely("pairs", tmp_path)
    assert list(corpus.keys) == ["x", "000", "001", "002"]  # shards in sorted order
    assert corpus.caption_offsets.tolist() == [0, 2, 4, 6, 8]
    assert [corpus.text(0, j) for j in range(2)] == ["one", "two"]
    assert corpus.sizes.tolist() == [[12, 8]] * 4 and corpus.sizes.dtype == np.int32
    for i in range(4):
        sample = corpus.sample(i)
        for j, caption in enumerate(sample.texts):
            tokens = corpus.tokens(i, j)
            assert tokens.dtype == np.uint16 and bytes(tokens.astype(np.uint8)).decode() == caption
            assert corpus.token_counts[corpus.caption_offsets[i] + j] == len(tokens)
    assert corpus.image_bytes(2) == image(1) and corpus.meta(2)["n"] == 1 and corpus.meta(0) == {}
    assert ledger.notes == {"extra members: ending in .cls, not read as pairs": 1, "blank captions": 1}
    assert ledger.summary()["examples"]["extra members: ending in .cls, not read as pairs"] == ["x.cls"]
    with pytest.raises(IndexError):
        corpus.text(0, 2)  # never the next item's caption


def test_pairs_from_a_folder_and_jsonl(tmp_path):
    (tmp_path / "img").mkdir()
    for i in range(3):
        (tmp_path / "img" / f"{i}.png").write_bytes(image(i))
    rows = [
        {"image": "img/0.png", "caption": "zero"},
        {"image": "./img/1.png", "captions": ["one", "uno"]},
        {"image": "img/0.png", "caption": "null", "extra": 1},
        {"image": "../outside.png", "caption": "x"},
        {"image": "img/absent.png", "caption": "x"},
        {"caption": "no image named"},
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus, ledger = open_loosely("pairs", tmp_path)
    assert list(corpus.keys) == ["img/0.png", "img/1.png"]
    assert [corpus.sample(i).texts for i in range(2)] == [("zero", "null"), ("one", "uno")]
    assert corpus.image_bytes(1) == image(1) and corpus.meta(0) == rows[0]
    assert ledger.summary()["reasons"] == {
        "image path leaves the folder": 1,
        "file is missing": 1,
        "field is missing": 1,
    }
    assert ledger.notes["images that no table names"] == 1  # img/2.png: no fault of anybody
    named = {"picture": "img/2.png", "says": "two"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(named))
    corpus, _ = open_loosely("pairs", tmp_path, fields=Fields(image=("picture",), captions=("says",)))
    assert corpus.sample(0).texts == ("two",)


def test_pairs_from_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    rows = [{"key": f"k{i}", "jpg": image(i, "JPEG"), "caption": f"c{i}", "url": "u"} for i in range(5)]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=2)
    nested = [{"image": {"bytes": image(7), "path": "x.png"}, "text": "seven"}]
    parquet.write_table(arrow.Table.from_pylist(nested), tmp_path / "b.parquet")
    corpus, _ = open_loosely("pairs", tmp_path)
    assert list(corpus.keys) == ["k0", "k1", "k2", "k3", "k4", "b.parquet:0"]
    assert [corpus.image_bytes(i) for i in range(5)] == [row["jpg"] for row in rows]
    assert corpus.image_bytes(5) == image(7) and corpus.text(5) == "seven"
    assert corpus.meta(3) == {"key": "k3", "caption": "c3", "url": "u"}


def test_img2dataset_tars_win_over_the_tables_beside_them(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    members = [
        ("000.jpg", image(0, "JPEG")),
        ("000.txt", b"a cat"),
        ("000.json", b'{"caption": "a cat", "sha256": "x"}'),
    ]
    write_tar(tmp_path / "00000.tar", members)
    parquet.write_table(arrow.table({"url": ["u"], "caption": ["a cat"]}), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    for kind in ("pairs", "images"):
        corpus, _ = open_loosely(kind, tmp_path)
        assert list(corpus.keys) == ["000"] and [path.name for path, _ in corpus.shards] == ["00000.tar"]


def test_images_from_folders_and_tars(tmp_path):
    (tmp_path / "cats" / "ü b").mkdir(parents=True)
    (tmp_path / "cats" / "ü b" / "-1 🐈.png").write_bytes(image(1))
    (tmp_path / "cats" / "notes.md").write_text("ignored")
    (tmp_path / ".hidden.png").write_bytes(b"ignored")
    labelled = [
        ("a.png", image(2)),
        ("a.json", b'{"label": 4, "label_name": "tabby"}'),
        ("b.png", image(3)),
    ]
    write_tar(tmp_path / "t.tar", labelled)
    corpus, _ = open_loosely("images", tmp_path)
    assert list(corpus.keys) == ["cats/ü b/-1 🐈.png", "a", "b"]
    assert [corpus.image_bytes(i) for i in range(3)] == [image(i) for i in (1, 2, 3)]
    assert corpus.labels == [None, "tabby", None] and corpus.token_counts.size == 0
    assert open_loosely("images", tmp_path / "cats")[0].labels is None


def test_texts_of_every_form(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "two.txt").write_bytes("\ufeffErste Zeile\r\n\r\nzweite ü\n".encode())
    (tmp_path / "rows.jsonl").write_text('{"text": "one", "title": "T"}\n\n{"text": "two"}\n')
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(b'{"text": "first"}\n{"text": "second"}'))
    corpus, _ = open_loosely("texts", tmp_path)
    texts = [corpus.text(i) for i in range(len(corpus))]
    assert texts == ["Erste Zeile\r\n\r\nzweite ü\n", "first", "second", "one", "two"]
    assert [bytes(corpus.tokens(i).astype(np.uint8)).decode() for i in range(5)] == texts
    assert corpus.token_counts.tolist() == [len(text.encode()) for text in texts]
    assert corpus.meta(3) == {"title": "T"} and corpus.keys[4] == "rows.jsonl:3" and corpus.caption_offsets is None


def test_paths_may_be_files_globs_or_lists(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}[1].jsonl").write_text(json.dumps({"text": name}))
    for paths in (tmp_path, str(tmp_path / "*.jsonl"), sorted(tmp_path.glob("*"), reverse=True)):
        assert [open_loosely("texts", paths)[0].text(i) for i in range(3)] == ["a", "b", "c"]
    assert open_loosely("texts", tmp_path / "b[1].jsonl")[0].text(0) == "b"


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXPECTED)
def test_missing_empty_and_wrong_folders_say_what_is_expected(kind, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "thesis.docx").touch()
    for name in ("emty", "empty", "wrong", "wrong/thesis.docx", "*.tar"):
        with pytest.raises(DataError) as caught:
            open_corpus(kind, tmp_path / name, tokenizer=LETTERS)
        assert caught.value.expected == EXPECTED[kind] and caught.value.do
        if name == "emty":
            assert "empty" in caught.value.do
        if name == "wrong":
            assert ".docx" in caught.value.got


def test_paths_that_run_or_fetch_are_refused_without_doing_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    sys.addaudithook(
        lambda event, _: seen.append(event) if event.startswith(("subprocess", "os.system", "socket")) else None
    )
    for path in [
        "pipe:touch ran",
        "https://host/a.tar",
        "s3://bucket/{0..3}.tar",
        "file:///etc/passwd",
        "pipe:cat a.tar",
    ]:
        with pytest.raises(UsageError):
            open_corpus("pairs", [path], tokenizer=LETTERS)
    assert not seen and not list(tmp_path.iterdir())


def test_the_same_shard_twice_is_refused(tmp_path):
    path = pairs_tar(tmp_path / "a.tar", 3)
    with pytest.raises(DataError, match="twice"):
        open_loosely("pairs", [path, tmp_path])
    (tmp_path / "copy.tar").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="same content"):
        open_loosely("pairs", tmp_path)


def test_every_bad_sample_is_named_and_only_bad_ones(tmp_path):
    good = [member for i in range(5) for member in pair(i)]
    cases = {
        "no-image": [("no-image.json", b'{"caption": "x"}')],
        "no-caption": [("no-caption.png", image(50))],
        "blank": [("blank.png", image(51)), ("blank.json", b'{"captions": ["", "  "]}')],
        "cut": [("cut.jpg", image(52, "JPEG", (90, 90))[:-900]), ("cut.txt", b"x")],
        "html": [("html.jpg", b"<html>"), ("html.txt", b"x")],
        "zero": [("zero.jpg", b""), ("zero.txt", b"x")],
        "tiff": [("tiff.jpg", image(53, "TIFF")), ("tiff.txt", b"x")],
        "latin": [("latin.png", image(54)), ("latin.txt", "größe".encode("latin-1"))],
        "nan": [("nan.png", image(55)), ("nan.json", b'{"caption": NaN}')],
        "half": [("half.png", image(56)), ("half.json", b'{"caption": "\\ud83d"}')],
        "number": [("number.png", image(57)), ("number.json", b'{"captions": [3]}')],
        "003": [("003.png", image(58)), ("003.txt", b"second of this key")],
    }
    path = write_tar(tmp_path / "a.tar", good + [member for members in cases.values() for member in members])
    ledger = Ledger(tmp_path / "bad_samples.jsonl")
    corpus, _ = open_loosely("pairs", path, ledger=ledger)
    assert list(corpus.keys) == [f"{i:03d}" for i in range(5)] and corpus.image_bytes(3) == image(3)
    entries = [json.loads(line) for line in ledger.path.read_text().splitlines()]
    assert sorted(entry["key"] for entry in entries) == sorted(cases)
    assert all(entry["key"] in entry["where"] and entry["shard"] == str(path) for entry in entries)
    again, reopened = open_loosely("pairs", path)  # from the stored index: the same account
    assert reopened.summary()["reasons"] == ledger.summary()["reasons"] and again.fingerprint == corpus.fingerprint
    with pytest.raises(DataError, match="too many bad samples") as caught:
        open_corpus("pairs", path, tokenizer=LETTERS, ledger=ledger)
    assert "12 of 17" in caught.value.got and "bad_samples.jsonl" in str(caught.value.where)


def test_nothing_usable_is_an_error_even_when_bad_samples_are_allowed(tmp_path):
    write_tar(tmp_path / "a.tar", [("a.jpg", b"x"), ("a.txt", b"x")])
    with pytest.raises(DataError, match="no usable sample"):
        open_loosely("pairs", tmp_path)
    write_tar(tmp_path / "a.tar", [])
    with pytest.raises(DataError, match="hold no samples"):
        open_loosely("pairs", tmp_path)


def test_code_in_data_is_never_looked_at(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    hostile = [(f"../../000.{ending}", pickle.dumps(Bomb())) for ending in ("pyd", "pkl", "pth", "py", "cls")]
    corpus, ledger = open_loosely("pairs", write_tar(tmp_path / "a.tar", pair(0) + hostile))
    assert corpus.sample(0).key == "000" and sum(ledger.notes.values()) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "a.tar.pairs.index.safetensors"]


def test_pipes_and_dangling_links_among_images_are_quarantined(tmp_path):
    (tmp_path / "good.png").write_bytes(image(0))
    (tmp_path / "link.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(tmp_path / "pipe.png")
    corpus, ledger = open_loosely("images", tmp_path)
    assert list(corpus.keys) == ["good.png"]
    assert ledger.summary()["reasons"] == {"file is missing": 1, "not a regular file": 1}


# --- what changed ---------------------------------------------------------------------------------


def test_the_index_is_reused_and_rebuilt_when_anything_it_depends_on_differs(tmp_path):
    path = pairs_tar(tmp_path / "a.tar", 4)
    said = []
    fingerprints = [open_loosely("pairs", path, on_shard=said.append)[0].fingerprint for _ in range(2)]
    assert [row["built"] for row in said] == [True, False] and len(set(fingerprints)) == 1
    other = open_corpus("pairs", path, tokenizer=Letters("other"), on_shard=said.append)
    fields = open_loosely("pairs", path, fields=Fields(captions=("captions",)), on_shard=said.append)[0]
    assert said[-1]["built"] and said[-2]["built"]
    write_tar(path, [member for i in (3, 2, 1, 0) for member in pair(i)])
    changed, _ = open_loosely("pairs", path, on_shard=said.append)
    assert said[-1]["built"] and list(changed.keys) == ["003", "002", "001", "000"]
    assert len({fingerprints[0], other.fingerprint, fields.fingerprint, changed.fingerprint}) == 4
    (tmp_path / "a.tar.pairs.index.safetensors").write_bytes(b"garbage")
    rebuilt, _ = open_loosely("pairs", path, on_shard=said.append)
    assert said[-1]["built"] and rebuilt.fingerprint == changed.fingerprint


def test_the_fingerprint_knows_contents_not_places_or_times(tmp_path):
    fingerprints = set()
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "x.png").write_bytes(image(0))
        path = tmp_path / place / "x.png"
        os.utime(path, (len(fingerprints), 0))
        fingerprints.add(open_loosely("images", tmp_path / place)[0].fingerprint)
    assert len(fingerprints) == 1
    (tmp_path / "two" / "x.png").write_bytes(image(1))
    assert open_loosely("images", tmp_path / "two")[0].fingerprint not in fingerprints


def test_a_change_that_hides_is_found_on_reading_and_by_recheck(tmp_path):
    """Same size, same time of change, one bit of one image."""
    path = pairs_tar(tmp_path / "a.tar", 12)
    corpus, _ = open_loosely("pairs", path)
    status = path.stat()
    body = bytearray(path.read_bytes())
    offset = body.index(image(7)) + 60
    body[offset] ^= 1
    path.write_bytes(body)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    reopened, _ = open_loosely("pairs", path)
    for opened in (corpus, reopened):
        with pytest.raises(DataError, match="changed since it was indexed") as caught:
            opened.image_bytes(7)
        assert "key 007" in str(caught.value.where) and "data check" in caught.value.do
        assert opened.image_bytes(6) == image(6)
    rows = index("pairs", path, tokenizer=LETTERS, max_bad_fraction=1, say=lambda line: None)
    assert rows[0]["built"] and rows[0]["offered"] == 12


def test_damage_since_the_former_index_is_counted_by_key(tmp_path):
    path = pairs_tar(tmp_path / "a.tar", 40)
    open_loosely("pairs", path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    corpus, ledger = open_loosely("pairs", path)
    lost = ledger.summary()["reasons"]["sample lost in a damaged stretch"]
    # of the 40 each is delivered, lost by name, or the one whose caption was cut off
    assert len(corpus) + lost + ledger.summary()["reasons"].get("image without caption", 0) == 40
    assert ledger.summary()["reasons"]["tar is cut short"] >= 1


@pytest.mark.parametrize("kind", ["images", "pairs"])
def test_mutated_shards_lose_nothing_in_silence(kind, tmp_path):
    """Mutated before indexing: every sample is delivered intact, quarantined, or inside a reported
    stretch."""
    count = 12
    original = pairs_tar(tmp_path / "a.tar", count)
    data = original.read_bytes()
    with tarfile.open(original) as tar:
        headers = [member.offset for member in tar]
    images = {hashlib.sha256(image(i)).hexdigest(): f"{i:03d}" for i in range(count)}
    rng = random.Random(0)
    path = tmp_path / "b.tar"
    losses = 0
    for round in range(150):
        body = bytearray(data)
        way = round % 4
        if way == 0:
            position = rng.choice(headers) + rng.randrange(345)
            body[position] ^= 1 << rng.randrange(8)
        elif way == 1:
            del body[rng.randrange(1, len(data.rstrip(b"\0"))) :]
        elif way == 2:
            begin = rng.choice(headers)
            body[begin : begin + 512] = bytes(512)
        else:
            begin = rng.randrange(len(headers) - 3)
            body[headers[begin] : headers[begin + 2]] = rng.randbytes(headers[begin + 2] - headers[begin])
        path.write_bytes(body)
        ledger = Ledger()
        try:
            corpus = open_corpus(kind, path, tokenizer=LETTERS, ledger=ledger, max_bad_fraction=1.0, verify="header")
            delivered = [hashlib.sha256(corpus.image_bytes(i)).hexdigest() for i in range(len(corpus))]
            assert all(images[digest] == key for digest, key in zip(delivered, corpus.keys))
        except DataError:
            delivered = []
        assert ledger.offered == ledger.used + ledger.quarantined
        if len(delivered) < count:
            losses += 1
            assert ledger.quarantined >= (1 if way in (1, 3) else count - len(delivered)), (round, way)
    assert losses > 50


def test_payload_flips_behind_an_index_are_all_found(tmp_path):
    path = pairs_tar(tmp_path / "a.tar", 6)
    corpus, _ = open_loosely("pairs", path)
    data = path.read_bytes()
    spans = [
        (i, name, *map(int, at[i]))
        for i in range(6)
        for name, at in (("image", corpus._image_at), ("meta", corpus._record_at))
    ]
    rng = random.Random(0)
    for _ in range(200):
        i, part, offset, length = rng.choice(spans)
        position = offset + rng.randrange(length)
        with path.open("r+b") as stream:
            stream.seek(position)
            stream.write(bytes([data[position] ^ 1 << rng.randrange(8)]))
        with pytest.raises(DataError, match="changed since"):
            corpus.image_bytes(i) if part == "image" else corpus.meta(i)
        with path.open("r+b") as stream:
            stream.seek(position)
            stream.write(data[position : position + 1])
    assert [corpus.image_bytes(i) for i in range(6)] == [image(i) for i in range(6)]


# --- workers --------------------------------------------------------------------------------------


def _digests(corpus):
    return [hashlib.sha256(corpus.image_bytes(i)).hexdigest() + corpus.text(i, 1) for i in range(len(corpus))]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_corpus_works_in_workers(method, tmp_path):
    corpus, _ = open_loosely("pairs", pairs_tar(tmp_path / "a.tar", 5))
    expected = _digests(corpus)
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        children = [pool.submit(_digests, corpus) for _ in range(2)]
        assert [child.result() for child in children] == [expected, expected]


def test_verify_header_reads_the_same_sizes(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (30, 20)).save(stream, "JPEG", exif=exif)
    (tmp_path / "turned.jpg").write_bytes(stream.getvalue())
    (tmp_path / "plain.png").write_bytes(image(0))
    for level in ("header", "decode"):
        corpus, _ = open_loosely("images", tmp_path, verify=level, index_dir=tmp_path / "index")
        assert corpus.sizes.tolist() == [[12, 8], [20, 30]]


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
