"""Single samples at their limits: odd ones are read, impossible ones named, and neither costs more than its length."""

from __future__ import annotations

import difflib
import io
import json
import random
import tarfile

import numpy as np
import pytest
from PIL import Image

from unimo.corpus import tar
from unimo.corpus.bad_samples import Ledger
from unimo.corpus.corpus import open_corpus
from unimo.corpus.tar import Member, _read_extension, scan_tar
from unimo.corpus.text import Row, checked_text
from unimo.data.images import FORMATS, load_rgb
from unimo.errors import DataError, UnimoError, nearest
from unimo.file_access import read_range
from unimo.finetune.readers.tables import rows_of


class Letters:
    """One id per byte."""

    fingerprint = "letters"

    def encode_batch(self, texts):
        return [list(text.encode()) for text in texts]


def image(seed: int, form="PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(file, form)
    return file.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def opened(path):
    ledger = Ledger()
    return open_corpus("pairs", path, tokenizer=Letters(), ledger=ledger, max_bad_fraction=1.0), ledger


# ---- one sample


def test_case_numbers_nobody_needs_cost_no_pair(tmp_path):
    odd = [b"NaN", b"Infinity", b"-Infinity", b"9" * 5000, b'1, "similarity": 2', b'"\\ud800"', b"1e999"]
    members = []
    for i in range(50):
        record = b'{"caption": "c%d", "similarity": %s}' % (i, odd[i] if i < len(odd) else b"0.3")
        members += [(f"{i}.png", image(i)), (f"{i}.json", record)]
    corpus, ledger = opened(write_tar(tmp_path / "a.tar", members))
    assert len(corpus) == 50 and ledger.quarantined == 0
    assert [corpus.text(i) for i in range(50)] == [f"c{i}" for i in range(50)]
    assert np.isnan(corpus.meta(0)["similarity"]) and corpus.meta(1)["similarity"] == float("inf")


def test_a_caption_given_twice_is_refused_by_field(tmp_path):
    record = b'{"caption": "a dog", "caption": "a cat"}'
    with pytest.raises(DataError):
        opened(write_tar(tmp_path / "a.tar", [("1.png", image(1)), ("1.json", record)]))
    members = [("0.png", image(0)), ("0.txt", b"fine"), ("1.png", image(1)), ("1.json", record)]
    _, ledger = opened(write_tar(tmp_path / "a.tar", members))
    assert ledger.summary()["reasons"] == {"wrong type of field": 1}


@pytest.mark.parametrize("strange", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1d"])
def test_case_one_caption_stays_one_caption(strange, tmp_path):
    caption = f"two dogs{strange}run"
    members = [("1.png", image(1)), ("1.txt", f"{caption}\r\nand a cat\n".encode())]
    corpus, _ = opened(write_tar(tmp_path / "a.tar", members))
    assert [corpus.text(0, j) for j in range(len(corpus.token_counts))] == [caption, "and a cat"]


def test_case_an_image_that_is_only_a_path_is_named(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    rows = [{"image": {"bytes": image(i), "path": f"{i}.png"}, "text": "words"} for i in range(3)]
    rows[1]["image"]["bytes"] = None
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    ledger = Ledger(tmp_path / "bad.jsonl")
    corpus = open_corpus("pairs", tmp_path / "a.parquet", tokenizer=Letters(), ledger=ledger, max_bad_fraction=1.0)
    (entry,) = map(json.loads, (tmp_path / "bad.jsonl").read_text().splitlines())
    assert len(corpus) == 2
    assert entry["where"] == "a.parquet, row 1, field image" and entry["got"] == "only the path 1.png"
    assert "bytes" in entry["expected"] and entry["do"]


def test_columns_without_a_name_are_in_nobodys_way(tmp_path):
    """Trailing commas and the unnamed index of a data frame."""
    path = tmp_path / "a.csv"
    path.write_text(",text,label,,\n0,a dog,1,,\n1,a cat,0,x,\n")
    assert [row.values for row in rows_of(path)] == [{"text": "a dog", "label": "1"}, {"text": "a cat", "label": "0"}]


@pytest.mark.parametrize("strange", ["\u2028", "\x85", "\x0c"])
def test_case_one_caption_beside_a_loose_image_stays_one(strange, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "1.png").write_bytes(image(1))
    (folder / "1.txt").write_bytes(f"two dogs{strange}run\n".encode())
    corpus, _ = opened(folder)
    assert [corpus.text(0, j) for j in range(len(corpus.token_counts))] == [f"two dogs{strange}run"]


# ---- work that grows with the square of its input


def pax(records: bytes, name=b"a.jpg") -> bytes:
    """A tar of one empty member behind a pax header."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    body = records + bytes(-len(records) % 512)
    return header.tobuf(tarfile.USTAR_FORMAT) + body + tarfile.TarInfo(name.decode()).tobuf() + bytes(1024)


def record(name: bytes, value: bytes) -> bytes:
    rest = b" " + name + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length += 1
    return str(length).encode() + rest


@pytest.mark.parametrize("size", [b"9" * 5000, b"-1", b"", b"1e3", b"9" * 20, "٣".encode()])
def test_case_a_size_that_is_none_is_named(size, tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(pax(record(b"size", size)))
    (damage, *rest) = scan_tar(path)
    assert isinstance(damage, DataError) and "byte offset 0" in str(damage.where)
    assert [entry.name for entry in rest] == ["a.jpg"]


@pytest.mark.parametrize("header", [b"9" * 600, b"7", b"-5 a=\n", b" a=\n", b"99999999999999999999 a=\n", b"5 a=x"])
def test_pax_headers_that_do_not_parse_are_named(header, tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(pax(header))
    assert [type(entry) for entry in scan_tar(path)] == [DataError, Member]


class Metered(bytes):
    """Bytes that count how many of them are copied."""

    copied = 0

    def __getitem__(self, index):
        part = bytes.__getitem__(self, index)
        if isinstance(index, slice):
            Metered.copied += len(part)
        return part


@pytest.mark.parametrize("records", [b"5 a=\n", record(b"path", b"x" * 50)])
def test_case_many_pax_records_cost_their_length(records, tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "read_range", lambda path, offset, length: Metered(records * (length // len(records))))

    def copied(n):
        Metered.copied = 0
        assert _read_extension(tmp_path, b"x", 0, n * len(records)) is not None
        return Metered.copied

    assert 0 < copied(4000) <= 4 * copied(1000) + 1000


def test_global_records_are_not_carried_from_member_to_member(tmp_path):
    """What nobody asks for is forgotten at once, whatever there is of it."""
    path = tmp_path / "a.tar"
    path.write_bytes(pax(b"".join(record(b"k%d" % i, b"v") for i in range(1000)) + record(b"path", b"b.jpg")))
    assert [entry.name for entry in scan_tar(path)] == ["b.jpg"]
    header = path.read_bytes()[512 : 512 + 11_000]
    assert set(_read_extension(path, b"g", 512, header.index(b"b.jpg\n") + 6)) == {"path"}


def test_many_broken_headers_cost_their_length(tmp_path, monkeypatch):
    read = 0
    real = read_range

    def counted(path, offset, length):
        nonlocal read
        data = real(path, offset, length)
        read += len(data)
        return data

    monkeypatch.setattr(tar, "read_range", counted)

    def cost(n):
        nonlocal read
        path = tmp_path / f"{n}.tar"
        path.write_bytes(b"".join(tarfile.TarInfo(f"{i}.jpg").tobuf() + b"\x07" * 512 for i in range(n)) + bytes(1024))
        read = 0
        assert len(list(scan_tar(path))) == 2 * n
        return read

    assert cost(400) <= 5 * cost(100)


class Columns(str):
    """A name that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Columns.compared += 1
        return str.__eq__(self, other)

    def strip(self, *args):
        return Columns(str.strip(self, *args))


def test_case_a_header_of_many_columns_costs_its_length():
    from unimo.finetune.readers.tables import _checked_header

    def comparisons(n):
        Columns.compared = 0
        assert len(_checked_header([Columns(f"c{i}") for i in range(n)], "a.csv")) == n
        with pytest.raises(DataError, match="c7"):
            _checked_header([Columns(f"c{i}") for i in range(n)] + [Columns("c7")], "a.csv")
        return Columns.compared

    assert comparisons(4000) <= 5 * comparisons(1000) + 100


def test_case_a_csv_of_many_columns_is_read_and_its_short_rows_are_named(tmp_path):
    path = tmp_path / "a.csv"
    names = [f"c{i}" for i in range(100_000)]
    path.write_text("\n".join([",".join(names), ",".join("1" * 100_000), "1,2", "3"]))
    row, *short = rows_of(path)
    assert row.values["c99999"] == "1" and len(short) == 2
    assert all("100000: c0, c1" in str(error.expected) and len(str(error)) < 1000 for error in short)


def test_a_long_line_is_read_and_a_long_name_is_not_printed_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x" * 10_000_000}) + "\n" + json.dumps({"y" * 1_000_000: 1}) + "\n")
    ledger = Ledger(tmp_path / "bad")
    corpus = open_corpus("texts", path, tokenizer=Letters(), ledger=ledger, max_bad_fraction=1.0)
    assert corpus.token_counts.tolist() == [10_000_000]
    assert ledger.quarantined == 1 and (tmp_path / "bad").stat().st_size < 10_000


def test_hints_are_not_sought_among_names_without_end(monkeypatch):
    looked_at = []
    monkeypatch.setattr(difflib, "get_close_matches", lambda name, names, **_: looked_at.extend([name, *names]) or [])
    assert nearest("x" * 1_000_000, ["y" * 1_000_000]) is None and not looked_at
    nearest("label", ("y" * 1000 if i % 2 else f"c{i}" for i in range(1_000_000)))
    assert len(looked_at) <= 10_001 and max(map(len, looked_at)) <= 200


# ---- whatever the bytes are


def mutated(data: bytes, rng: random.Random) -> bytes:
    body = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 8])):
        at = rng.randrange(len(body) or 1)
        way = rng.randrange(4)
        if way == 0 and body:
            body[at % len(body)] = rng.randrange(256)
        elif way == 1:
            del body[at : at + rng.randrange(1, 9)]
        elif way == 2:
            body[at:at] = rng.choice(
                [b'"', b",", b"\r", b"\n", b"{", b"[", b"\\", b"\xff", b"\0", b"NaN", b"\xe2\x80\xa8"]
            )
        else:
            body[at:at] = body[rng.randrange(len(body) or 1) :][: rng.randrange(20)]
    return bytes(body)


@pytest.mark.parametrize("form", FORMATS)
def test_mutated_images_are_read_or_refused_by_name(form):
    rng = random.Random(form)
    data = image(3, form)
    for number in range(150):
        try:
            assert load_rgb(mutated(data, rng), where=f"a.tar, key {number}").mode == "RGB"
        except UnimoError as error:
            assert error.where == f"a.tar, key {number}" and error.what and error.got


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv"])
def test_mutated_lines_are_read_or_refused_by_place(name, tmp_path):
    rng = random.Random(name)
    rows = [{"text": f"row {i}, naïve", "label": str(i % 2), "n": i / 3} for i in range(6)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    if name != "a.jsonl":
        separator = "," if name == "a.csv" else "\t"
        lines = [separator.join(rows[0])] + [separator.join(f'"{v}"' for v in row.values()) for row in rows]
    whole = "\n".join(lines).encode()
    path = tmp_path / name
    for _ in range(300):
        path.write_bytes(mutated(whole, rng))
        try:
            for row in rows_of(path):
                if isinstance(row, Row):
                    value = row.values.get("text")
                    assert value is None or checked_text(value, row.where, "text") == value
                else:
                    assert isinstance(row, DataError) and "a." in str(row.where)
        except UnimoError as error:
            assert "a." in str(error.where)
