"""Odd tables of people who do this job: each is read as it is meant, or refused by file, row and column."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import random

import pytest
from PIL import Image

from unimo.errors import DataError, UnimoError
from unimo.finetune.readers.columns import class_name
from unimo.finetune.split import open_examples
from unimo.formats.delimited import unpacked
from unimo.formats.tables import rows_of
from unimo.formats.text import lines_of

CAPTIONS = [(f"{i}.jpg", f"caption {j} of {i}") for i in range(4) for j in range(5)]


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(tmp_path / f"images/{i}.jpg")
    return str(tmp_path / "images")


def write(path, rows, header):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def said(examples):
    return {row.image: row.target for row in examples.rows}


FIVE = {f"{i}.jpg": tuple(f"caption {j} of {i}" for j in range(5)) for i in range(4)}

# ---- rows of one image


@pytest.mark.parametrize("kind", ["retrieval", "generation", None])
def test_case_kaggles_captions_are_four_images_with_five_captions(kind, images, tmp_path):
    path = write(tmp_path / "captions.csv", CAPTIONS, ("image", "caption"))
    examples = open_examples("table", path, images=images, kind=kind, need_targets=True)
    assert said(examples) == FIVE and [row.id for row in examples.rows] == list(FIVE)
    (note,) = [note for note in examples.notes if "belong together" in note]
    assert "20 rows" in note and "4 images" in note


@pytest.mark.parametrize("header", [("image", "caption"), ("image", "text"), ("image_name", "comment")])
def test_what_stands_beside_an_image_is_its_caption(header, images, tmp_path):
    """For retrieval a table of images and texts has captions, however they are called; in any order, apart too."""
    rows = random.Random(0).sample(CAPTIONS, len(CAPTIONS))
    fields = {"image": header[0], "target": header[1]} if header[1] == "comment" else None
    path = write(tmp_path / "captions.csv", rows, header)
    examples = open_examples("table", path, images=images, kind="retrieval", fields=fields, need_targets=True)
    assert {name: set(texts) for name, texts in said(examples).items()} == {n: set(t) for n, t in FIVE.items()}


def test_ids_of_rows_that_become_one(images, tmp_path):
    """An id that all captions of an image share stays; ids of single captions give way to the image's name."""
    own = write(tmp_path / "own.csv", [(f"{image}#{i}", image, text) for i, (image, text) in enumerate(CAPTIONS)],
                ("id", "image", "caption"))  # fmt: skip
    assert [row.id for row in open_examples("table", own, images=images, kind="retrieval").rows] == list(FIVE)
    shared = write(tmp_path / "shared.csv", [(f"p{image[0]}", image, text) for image, text in CAPTIONS],
                   ("id", "image", "caption"))  # fmt: skip
    found = open_examples("table", shared, images=images, kind="retrieval")
    assert [row.id for row in found.rows] == ["p0", "p1", "p2", "p3"] and found.bad == 0
    mixed = write(tmp_path / "mixed.csv", [("p", "0.jpg", "a"), ("p", "1.jpg", "b")], ("id", "image", "caption"))
    assert open_examples("table", mixed, images=images, kind="retrieval").bad == 1  # one id of two images
    lone = write(tmp_path / "lone.csv", [("a", "0.jpg", "x"), ("b", "1.jpg", "y")], ("id", "image", "caption"))
    assert [row.id for row in open_examples("table", lone, images=images, kind="retrieval").rows] == ["a", "b"]


def test_captions_in_several_files_and_under_several_names_of_an_image_meet(images, tmp_path):
    write(tmp_path / "a.csv", CAPTIONS[::2], ("image", "caption"))
    write(
        tmp_path / "b.csv", [(image.removesuffix(".jpg"), text) for image, text in CAPTIONS[1::2]], ("image", "caption")
    )
    found = open_examples("csv", [tmp_path / "a.csv", tmp_path / "b.csv"], images=images, kind="retrieval")
    assert {name: len(texts) for name, texts in said(found).items()} == dict.fromkeys(FIVE, 5)


def test_rows_of_other_kinds_stay_rows(images, tmp_path):
    """Two labels of one image, and two questions about it, are two rows."""
    labels = write(tmp_path / "labels.csv", [("0.jpg", "cat"), ("0.jpg", "dog"), ("1.jpg", "cat")], ("image", "label"))
    assert len(open_examples("table", labels, images=images, kind="classification")) == 3
    asked = write(tmp_path / "asked.csv", [("0.jpg", "what?", "a cat"), ("0.jpg", "where?", "here")],
                  ("image", "question", "answer"))  # fmt: skip
    assert len(open_examples("table", asked, images=images, kind="generation")) == 2


# ---- JSON that is not JSON lines


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("suffix", ["json", "json.gz", "jsonl"])
def test_case_one_json_list_of_annotations(suffix, indent, images, tmp_path):
    rows = [{"caption": text, "image": image, "image_id": f"coco_{image}"} for image, text in CAPTIONS]
    path = tmp_path / f"train.{suffix}"
    data = json.dumps(rows, indent=indent).encode()
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    assert said(open_examples("table", path, images=images, kind="retrieval", need_targets=True)) == FIVE
    five = [{"image": image, "caption": list(texts)} for image, texts in FIVE.items()]  # as validation splits have it
    (tmp_path / "val.json").write_text(json.dumps(five))
    assert said(open_examples("table", tmp_path / "val.json", images=images, kind="generation")) == FIVE


@pytest.mark.parametrize("indent", [None, 2])
def test_images_with_annotations_are_joined(indent, images, tmp_path):
    value = {
        "info": {"year": 2017},
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 8} for i in range(4)],
        "annotations": [
            {"id": 100 + n, "image_id": int(image[0]), "caption": text} for n, (image, text) in enumerate(CAPTIONS)
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(value, indent=indent))
    examples = open_examples("table", tmp_path / "captions.json", images=images, kind="retrieval")
    assert said(examples) == FIVE and [row.id for row in examples.rows] == ["0", "1", "2", "3"]
    value["annotations"][0]["image_id"] = 77
    (tmp_path / "captions.json").write_text(json.dumps(value, indent=indent))
    assert open_examples("table", tmp_path / "captions.json", images=images, max_bad_fraction=0.1).bad == 1


def test_an_object_around_one_list_of_rows(tmp_path):
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(4)]
    for indent in (None, 1):
        (tmp_path / "a.json").write_text(json.dumps({"version": "1.1", "data": rows}, indent=indent))
        assert [row.target for row in open_examples("table", tmp_path / "a.json").rows] == ["a", "b", "a", "b"]
    (tmp_path / "two.json").write_text(json.dumps({"train": rows, "dev": rows}))
    with pytest.raises(DataError, match=r"several lists.*train, dev"):
        open_examples("table", tmp_path / "two.json")
    (tmp_path / "none.json").write_text(json.dumps({"a": 1}, indent=1))
    with pytest.raises(DataError, match="no list of rows"):
        open_examples("table", tmp_path / "none.json")


def test_json_lines_are_still_lines(tmp_path):
    """Whatever they hold, also lists of objects, and also where the first of them is broken."""
    rows = [{"text": f"text {i}", "label": "a", "turns": [{"who": 1}, {"who": 2}]} for i in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for name in ("a.jsonl", "b.json"):
        (tmp_path / name).write_text(lines)
        assert len(open_examples("table", tmp_path / name)) == 3
    (tmp_path / "one.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert len(open_examples("table", tmp_path / "one.jsonl")) == 1
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": "x" * 100_000, "label": "a"}) + "\n" + lines)
    assert len(open_examples("table", tmp_path / "long.jsonl")) == 4
    (tmp_path / "torn.jsonl").write_text('{"text": "torn",\n' + lines)
    torn = open_examples("table", tmp_path / "torn.jsonl", max_bad_fraction=1)
    assert len(torn) == 3 and torn.bad == 1


@pytest.mark.parametrize("text", ["[1, 2, 3]", "[[1], [2]]", '[{"text": "a"', "[]", "[} ", '[{"a":1,"a":2}]'])
def test_json_that_is_no_table_is_refused_by_its_file(text, tmp_path):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(DataError, match=r"rows\.json"):
        open_examples("table", tmp_path / "rows.json")


# ---- lists in a cell


@pytest.mark.parametrize("spelled", [json.dumps, repr, lambda x: json.dumps(x, indent=1), lambda x: f" {x!r} "])
def test_case_a_csv_cell_that_is_a_list_of_captions(spelled, images, tmp_path):
    five = {name: tuple(f'it\'s "{text}"' for text in texts) for name, texts in FIVE.items()}
    path = write(
        tmp_path / "c.csv", [(name, spelled(list(texts))) for name, texts in five.items()], ("image", "captions")
    )
    assert said(open_examples("table", path, images=images, kind="generation", need_targets=True)) == five


def test_answers_in_a_cell_of_text(tmp_path):
    rows = [("q1?", '["yes", "Yes "]'), ("q2?", '{"no": 0.6, "maybe": 1}'), ("q3?", "no")]
    path = write(tmp_path / "vqa.csv", rows, ("question", "answers"))
    found = [row.target for row in open_examples("table", path, kind="classification").rows]
    assert found == [{"yes": 1.0}, {"no": 0.6, "maybe": 1.0}, {"no": 1.0}]


def test_a_text_is_only_a_list_where_it_is_one(images, tmp_path):
    kept = ["[unclear] a dog", "a dog [sic]", "[a dog]", "{a}", "[1, 2]", '{"a": "b"}', "[", "[]x"]
    assert [unpacked(text, "w") for text in kept] == kept
    path = write(tmp_path / "c.csv", [("0.jpg", "['a man' 'a dog']"), ("1.jpg", "a dog")], ("image", "caption"))
    found = open_examples("table", path, images=images, kind="generation", max_bad_fraction=1)
    assert len(found) == 1 and "list that cannot be read" in str(found.first_bad[0])  # as numpy prints it
    typed = tmp_path / "c.jsonl"  # JSON has lists of its own: a string is a string
    typed.write_text(json.dumps({"image": "0.jpg", "caption": '["a", "b"]'}) + "\n")
    assert said(open_examples("table", typed, images=images, kind="generation")) == {"0.jpg": '["a", "b"]'}


def test_reading_a_cell_executes_nothing(tmp_path):
    for text in ("[__import__('os').system('x')]", "['a', *'bc']", "['a'.upper()]", "[f'{1}']"):
        with contextlib.suppress(DataError):  # refused, as a list that cannot be read
            assert unpacked(text, "w") == text


# ---- labels


def labels(tmp_path, values, form):
    """The classes that a file of labels in their JSON types, or as pandas writes them to .csv, is read as."""
    path = tmp_path / f"rows.{form}"
    if form == "csv":
        write(path, [(f"text {i}", value) for i, value in enumerate(values)], ("text", "label"))
    else:
        path.write_text("".join(json.dumps({"text": f"text {i}", "label": v}) + "\n" for i, v in enumerate(values)))
    return [row.target for row in open_examples("table", path, kind="classification").rows]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_case_labels_with_fractions_are_refused_alike(form, tmp_path):
    with pytest.raises(DataError, match=r"not a class.*1\.2.*regression"):
        labels(tmp_path, [1.2, 2.5, 3.75] * 4, form)


@pytest.mark.parametrize(
    "values, expected",
    [
        ([1, 2, 0], ["1", "2", "0"]),
        ([1.0, 2.0, 0.0], ["1", "2", "0"]),
        (["1", "2.0", "00"], ["1", "2", "00"]),
        ([True, False], ["true", "false"]),
        (["True", "FALSE", "true"], ["true", "false", "true"]),
        (["v1.2", "1.2.3", "1,5", "1e5", "-"], ["v1.2", "1.2.3", "1,5", "1e5", "-"]),
    ],
)
def test_labels_mean_the_same_in_every_form(values, expected, tmp_path):
    assert labels(tmp_path, values, "csv") == labels(tmp_path, values, "jsonl") == expected


def test_withheld_labels_mean_the_same_in_every_type():
    assert [class_name(value, "w") for value in (-1, -1.0, "-1", "-1.0", "", " ")] == [None] * 6


@pytest.mark.parametrize(
    "value", [1.5, "1.5", ".5", "-2.25e-3", "1e-05", float("inf"), [1], {"a": 1}, '["a"]', '{"a": 1}', None]
)
def test_what_is_no_class_is_refused_by_its_place(value):
    with pytest.raises(DataError, match=r"not a class.*rows\.csv, line 3, field label"):
        class_name(value, "rows.csv, line 3, field label")


# ---- line ends


def test_case_lone_carriage_returns_end_lines(tmp_path):
    rows = [("a, b", "x"), ('a "b"', "y"), ("é", "x")]
    text = io.StringIO()
    csv.writer(text, lineterminator="\r").writerows([("text", "label"), *rows])
    (tmp_path / "mac.csv").write_bytes(text.getvalue().encode())
    assert [(row.texts[0], row.target) for row in open_examples("table", tmp_path / "mac.csv").rows] == rows
    (tmp_path / "mac.tsv").write_bytes(b"text\tlabel\ra\tx\rb\ty\r")
    (tmp_path / "mac.jsonl").write_bytes(b'{"text": "a", "label": "x"}\r{"text": "b", "label": "y"}\r')
    (tmp_path / "mac.csv.gz").write_bytes(gzip.compress(b"text,label\ra,x\rb,y"))
    for name in ("mac.tsv", "mac.jsonl", "mac.csv.gz"):
        found = open_examples("table", tmp_path / name)
        assert [(row.texts, row.target) for row in found.rows] == [(("a",), "x"), (("b",), "y")], name
        assert found.rows[1].id.endswith(":3" if "jsonl" not in name else ":2")


def test_returns_become_line_feeds(tmp_path):
    (tmp_path / "a").write_bytes(b"a\rb\rc\r\rd\re\r" + b"x" * 70_000 + b"\r\n")
    assert [line[:1] for line in lines_of(tmp_path / "a")] == ["a", "b", "c", "", "d", "e", "x", ""]


def test_line_ends_of_two_sorts_are_named(tmp_path):
    (tmp_path / "mixed.csv").write_bytes(b"text,label\nb,y\na\rc,x\n")
    found = open_examples("csv", tmp_path / "mixed.csv", max_bad_fraction=1)
    assert len(found) == 1 and "carriage return" in str(found.first_bad[0])


# ---- many columns, and columns without a name


@pytest.mark.timeout(60)  # of what costs the square of the columns, minutes
def test_case_a_csv_of_many_columns_is_read_and_its_short_rows_are_named(tmp_path):
    names = [f"c{i}" for i in range(100_000)]
    (tmp_path / "a.csv").write_text("\n".join([",".join(names), ",".join("1" * 100_000), "1,2", "3"]))
    row, *short = rows_of(tmp_path / "a.csv")
    assert row.values["c99999"] == "1" and len(short) == 2
    assert all("100000: c0, c1" in str(error.expected) and len(str(error)) < 1000 for error in short)


def test_columns_without_a_name_are_in_nobodys_way(tmp_path):
    """Trailing commas and the unnamed index of a data frame."""
    (tmp_path / "a.csv").write_text(",text,label,,\n0,a dog,1,,\n1,a cat,0,x,\n")
    rows = [row.values for row in rows_of(tmp_path / "a.csv")]
    assert rows == [{"text": "a dog", "label": "1"}, {"text": "a cat", "label": "0"}]


# ---- all at once


def test_random_small_tables_are_read_or_refused_by_name(tmp_path):
    """Tables of every form with odd columns, types, quotes and bytes: rows, or a UnimoError with what, where."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rng = random.Random(1)
    names = ["id", "text", "sentence", "label", "score", "caption", "image", "answers", "", "x", "text2", " label "]
    cells = ["", " ", "a", "a b", '"', "'", "[", '["a"]', "['a', 'b']", "1", "1.0", "1.5", "-1", "nan", "True", "é",
             "\ufeff", "a\nb",
             "a\rb", "a\tb", "a,b", "{}", '{"a": 1}', "\u2028", "null", "1e999", "x" * 300]  # fmt: skip
    values = [*cells, None, 1, 1.5, True, [], ["a", "b"], {"a": 1}, {"a": None}, [None], 10**30, -1]
    kinds = ["classification", "regression", "generation", "retrieval", None]
    read = refused = 0
    for turn in range(400):
        width, height = rng.randint(1, 4), rng.randint(0, 5)
        header = rng.sample(names, width)
        form = rng.choice(["csv", "tsv", "jsonl", "json", "parquet"])
        path = tmp_path / f"{turn}.{form}"
        pick = cells if form in ("csv", "tsv") else values
        rows = [[rng.choice(pick) for _ in header] for _ in range(height)]
        if form in ("csv", "tsv"):
            text = io.StringIO()
            end = rng.choice(["\n", "\r\n", "\r"])
            csv.writer(text, delimiter="," if form == "csv" else "\t", lineterminator=end).writerows([header, *rows])
            data = text.getvalue().encode()
        elif form == "parquet":
            columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
            try:
                parquet.write_table(pyarrow.table(columns), path)
            except (pyarrow.ArrowException, OverflowError, ValueError, TypeError):
                continue  # types that a Parquet column cannot mix
            data = path.read_bytes()
        else:
            objects = [dict(zip(header, row)) for row in rows]
            data = (json.dumps(objects) if form == "json" else "\n".join(map(json.dumps, objects))).encode()
        if rng.random() < 0.3:
            data = b"\xef\xbb\xbf" + data if rng.random() < 0.5 and form != "parquet" else data
            at = rng.randrange(len(data) + 1)
            data = data[:at] + rng.choice([b"", b"\xff", b"\0", b'"', b"\r", b"\n"]) + data[at + rng.randint(0, 2) :]
        path.write_bytes(data)
        try:
            examples = open_examples("table", path, kind=rng.choice(kinds), max_bad_fraction=rng.choice([0.01, 1.0]))
            read += 1
            assert all(row.texts or row.image for row in examples.rows)
            assert all(text.strip() for row in examples.rows for text in row.texts)
        except UnimoError as fault:
            refused += 1
            assert fault.exit_code in (2, 3) and path.name in fault.one_line() + str(fault.where), (data, fault)
    assert read > 40 and refused > 40
