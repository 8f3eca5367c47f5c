"""Text is read exactly or refused with its place: nothing is replaced, dropped or guessed."""

from __future__ import annotations

import gzip
import json
import random

import pyarrow
import pytest
from growth import growth
from pyarrow import parquet

from unimo.errors import DataError
from unimo.formats import text
from unimo.formats.arrow import read_arrow, read_arrow_at
from unimo.formats.text import Row, checked_text, decode_utf8, parse_json, read_jsonl, read_jsonl_at, split_lines


def test_utf8_is_strict_and_located():
    assert decode_utf8("\ufeffgröße".encode(), "a.txt") == "größe"
    for data, place in [
        (b"abc\xff", 3),
        (b"\xef\xbb\xbfab\xc3(", 5),
        ("ab".encode("utf-16"), 0),
        (b"ab\0c", 2),
    ]:
        with pytest.raises(DataError) as caught:
            decode_utf8(data, "a.txt")
        assert caught.value.where == f"a.txt, byte offset {place}"
    rng, original = random.Random(0), "naïve 图像 🐈 text\n".encode() * 3
    for _ in range(2000):
        mutated = bytearray(original)
        mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        try:
            assert decode_utf8(bytes(mutated), "x").encode() == bytes(mutated)
        except DataError as error:
            assert "byte offset" in str(error.where)


@pytest.mark.parametrize(
    "line, reason",
    [
        ('{"a": ' + "[" * 100_000, "nested"),
        ("[1, 2]", "list"),
        ('{"a": 1} x', "Extra data"),
        ('{"a": "\t"}', "control character"),
        ('{"a": nan}', "Expecting"),
        ("", "Expecting"),
    ],
)
def test_what_is_no_json_object_is_refused(line, reason):
    with pytest.raises(DataError, match=reason):
        parse_json(line.encode(), "a.jsonl, line 3")


@pytest.mark.parametrize("unit", ["[", "9", '{"a":'])
def test_hostile_json_costs_no_more_than_its_length(unit):
    def refuse(line):
        with pytest.raises(DataError):
            parse_json(line, "a.jsonl, line 3")

    assert growth(refuse, (unit * 20_000).encode(), (unit * 200_000).encode()) < 40


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "yes", "similarity": NaN}',
        '{"similarity": [Infinity, -Infinity], "text": "yes"}',
        '{"text": "yes", "n": ' + "9" * 10_000 + ', "m": -' + "9" * 10_000 + "}",
        '{"text": "yes", "k": 1, "k": 2, "inner": {"k": 1, "k": 2}}',
        '{"text": "yes", "text": "yes"}',
        r'{"text": "yes", "half": "\ud800", "\ud800": 1}',
        '{"text": "yes", "far": 1e999}',
    ],
)
def test_case_nobody_needs_that_number(line, tmp_path):
    """Strict about syntax and about the fields that are used, about no others."""
    (tmp_path / "a.jsonl").write_text(line + "\n")
    (row,) = read_jsonl(tmp_path / "a.jsonl")
    assert checked_text(row.values["text"], row.where, "text") == "yes"


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "9" * 10_000, '"a", "text": "b"', '{"k": 1, "k": 2}', "1e999"])
def test_values_that_are_used_are_refused_by_field(value):
    row = parse_json(f'{{"text": {value}}}'.encode(), "a.jsonl, line 3")
    with pytest.raises(DataError, match=r"a\.jsonl, line 3, field text"):
        checked_text(row["text"], "a.jsonl, line 3", "text")


def test_whatever_is_read_can_be_written_again():
    read = 0
    for depth in range(50, 1500, 7):
        try:
            row = parse_json(b'{"text": ' + b"[" * depth + b"]" * depth + b"}", "a.jsonl, line 3")
        except DataError as error:
            assert "nested" in error.got
            continue
        read = depth
        assert len(repr(row)) > depth and json.dumps(row)
    assert read >= 100
    row = parse_json(b'{"a": 1, "a": 2, "b": NaN}', "x")
    assert json.loads(json.dumps(row))["a"] == {"first": 1, "another": 2}


class Counted(str):
    """A key that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize("repeated", [0, 1])
def test_case_a_line_of_many_keys_costs_its_length(repeated):
    def comparisons(n):
        Counted.compared = 0
        pairs = [(Counted(f"key {i}"), i) for i in range(n)] + [(Counted("key 0"), -1)] * repeated
        assert len(text._object(pairs)) == n
        return Counted.compared

    assert comparisons(4000) <= 5 * comparisons(1000) + 100
    line = "{" + ", ".join(f'"{i}": {i}' for i in range(60_000)) + ', "7": "again"}'
    row = parse_json(line.encode(), "x")
    assert len(row) == 60_000 and isinstance(row["7"], text.SeveralValues)


@pytest.mark.parametrize("strange", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_case_lines_end_with_a_line_feed_and_nothing_else(strange):
    caption = f"a dog{strange}runs"
    for end in ("\n", "\r\n"):
        assert split_lines(f"{caption}{end}a cat{end}") == split_lines(f"{caption}{end}a cat") == [caption, "a cat"]
    assert split_lines("") == [] and split_lines("\n") == [""] and split_lines("a\n\nb") == ["a", "", "b"]


def test_separators_survive(tmp_path):
    texts = ["a;b\tc", 'quote " and \\', "line\nbreak\r\n", "\u2028 \u2029 \x85 \x0b", "  padded  ", "🐈‍⬛"]
    for escape in (True, False):
        path = tmp_path / f"{escape}.jsonl"
        path.write_text("\n".join(json.dumps({"text": t}, ensure_ascii=escape) for t in texts) + "\n\n", newline="")
        assert [row.values["text"] for row in read_jsonl(path)] == texts


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_rows_lie_where_they_say_and_bad_lines_cost_only_themselves(name, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "MAX_LINE_BYTES", 1000)
    exact = json.dumps({"text": "x" * 986})
    good = {b'\xef\xbb\xbf{"text": "one"}': "one", '{"text": "größe"}'.encode(): "größe", exact.encode(): "x" * 986}
    bad = {b'{"text": "\xff"}': "UTF-8", b"{broken": "broken JSON", b'{"text": "' + b"x" * 5_000_000: "too long"}
    bad[exact.encode().replace(b'"}', b'xxx"}')] = "too long"
    lines = [line for pair in zip(good, bad) for line in (*pair, b"")] + [list(bad)[-1]]
    data = b"\r\n".join(lines)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    found = list(read_jsonl(tmp_path / name))
    assert [row.values["text"] for row in found if isinstance(row, Row)] == list(good.values())
    for row, line in zip(found, filter(None, lines)):
        number = lines.index(line) + 1
        if isinstance(row, Row):
            assert row.key == f"{name}:{number}" and data[row.offset : row.offset + row.length].rstrip() == line
            assert parse_json(read_jsonl_at(tmp_path / name, row.offset, row.length), "x") == row.values
        else:
            assert f"line {number}" in str(row.where) and bad[line] in row.what
    assert f"offset {data.index(0xFF)}" in str(found[1].where) and "5000012 bytes" in str(found[5].got)


def test_a_gzip_stream_cut_or_damaged_is_reported(tmp_path):
    rng = random.Random(0)
    data = gzip.compress(b"\n".join(b'{"text": "%d"}' % rng.randrange(10**12) for _ in range(500)))
    path = tmp_path / "a.jsonl.gz"
    for _ in range(60):
        body = bytearray(data)
        if rng.random() < 0.5:
            del body[rng.randrange(len(body)) :]
        else:
            body[rng.randrange(20, len(body))] ^= 1 << rng.randrange(8)
        path.write_bytes(body)
        # an empty file is a legal stream of no records; whoever indexes it reports that nothing was there
        assert not body or any(isinstance(row, DataError) for row in read_jsonl(path))


def test_parquet_rows_and_damage(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": [f"row {i}" for i in range(100)]}), path, row_group_size=7)
    assert [row.values["text"] for row in read_arrow(path)] == [f"row {i}" for i in range(100)]
    assert [read_arrow_at(path, i)["text"] for i in (0, 6, 7, 99)] == [f"row {i}" for i in (0, 6, 7, 99)]
    with pytest.raises(DataError):
        read_arrow_at(path, 100)
    path.write_bytes(path.read_bytes()[:-20])
    assert [type(row) for row in read_arrow(path)] == [DataError]
