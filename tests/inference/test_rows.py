"""Many inputs, one row each: what arguments mean, what a bad one costs, and what is written."""

from __future__ import annotations

import csv
import io
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_unimo2 import lively_model

from unimo import cli
from unimo.errors import DataError, UsageError
from unimo.inference import Pipeline
from unimo.inference.rows import Inputs, answer_rows, row_writer
from unimo.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(lively_model(vocabulary=Tokenizer.vocab_size), precision="fp32")


@pytest.fixture
def images(tmp_path):
    """Five images in two folders, one of them broken, and a file that is none."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.JPG", "c.png", "more/d.png")):
        Image.new("RGB", (20, 24), (60 * i, 9, 9)).save(folder / name, "PNG")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:60])
    (folder / "notes.md").write_text("no image")
    return folder


def names(kind, given, **more) -> list[str]:
    inputs = Inputs(kind, given, **more)
    found = [one.name for one in inputs]
    assert inputs.total in (None, len(found))
    return [name.rpartition("/")[2] for name in found]


def test_what_arguments_mean(images, tmp_path):
    every = ["a.png", "b.JPG", "broken.png", "c.png", "d.png"]
    assert names("image", [str(images)]) == every
    assert names("image", [f"{images}/*.png"]) == ["a.png", "broken.png", "c.png"]
    (tmp_path / "list.txt").write_text(f"{images}/a.png\n\n{images}/c.png\n")
    assert names("image", [str(tmp_path / "list.txt"), f"{images}/b.JPG"]) == ["a.png", "c.png", "b.JPG"]
    assert names("image", ["-"], stdin=io.StringIO("x.png\n\ny.png\n")) == ["x.png", "y.png"]
    assert names("text", ["a dog", "two words"]) == ["a dog", "two words"]
    (tmp_path / "list.jsonl").write_text(
        '{"caption": "a dog", "image": "x.png"}\n{"text": "a cat", "image": "y.png"}\n'
    )
    assert names("image", [str(tmp_path / "list.jsonl")]) == ["x.png", "y.png"]
    assert names("text", [str(tmp_path / "list.jsonl"), "an owl"]) == ["a dog", "a cat", "an owl"]
    bytes_of = [{"bytes": (images / name).read_bytes(), "path": None} for name in ("a.png", "broken.png")]
    pq.write_table(pa.table({"image": bytes_of, "note": ["x", "y"]}), tmp_path / "t.parquet")
    assert names("image", [str(tmp_path / "t.parquet")]) == ["t.parquet:0", "t.parquet:1"]
    assert names("text", [str(tmp_path / "t.parquet")], column="note") == ["x", "y"]
    assert names("text", [str(tmp_path / "t.parquet")], column="text=note") == ["x", "y"]


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_a_table_of_any_form_gives_its_images_and_texts(images, tmp_path, form, pipeline):
    rows = [{"filepath": f"images/{name}", "title": name[0]} for name in ("a.png", "missing.png", "more/d.png")]
    path = tmp_path / f"t.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif form in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="," if form == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text(json.dumps(rows) if form == "json" else "\n".join(map(json.dumps, rows)))
    found = list(answer_rows(Inputs("image", [str(path)]), "image", embedded(pipeline)))
    assert [row["image"] for row in found] == [row["filepath"] for row in rows]
    assert ["error" in row for row in found] == [False, True, False]
    expected = pipeline.encode_image([images / "a.png", images / "more/d.png"])
    np.testing.assert_allclose([found[0]["embedding"], found[2]["embedding"]], expected, atol=1e-5)
    assert names("text", [str(path)]) == [row["title"] for row in rows]


def test_a_bad_row_of_a_table_costs_itself(tmp_path, pipeline):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a dog"}\n{"label": 1}\nno JSON\n{"text": "a cat"}\n')
    rows = list(answer_rows(Inputs("text", [str(path)]), "text", lambda some: [{"length": len(one)} for one in some]))
    assert [row.get("length") for row in rows] == [5, None, None, 5]
    assert "text in" in rows[1]["error"] and "line 3" in rows[2]["error"]


@pytest.mark.parametrize(
    ("kind", "given", "error", "what"),
    [
        ("image", ["nowhere.png"], DataError, "does not exist"),
        ("image", ["EMPTY"], UsageError, "no images"),
        ("image", ["missing.txt", "T.parquet"], DataError, "does not exist"),
        ("text", ["BAD.parquet"], DataError, "cannot read Parquet file"),
        ("text", ["T.parquet"], DataError, "fields number.*--column text=NAME"),
        ("text", ["BAD.jsonl"], DataError, "line 1.*fields label"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, kind, given, error, what):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "BAD.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "BAD.jsonl").write_text('{"label": 1}\n{"text": "x"}\n')
    pq.write_table(pa.table({"number": [1]}), tmp_path / "T.parquet")
    with pytest.raises(error, match=what):
        list(Inputs(kind, [str(tmp_path / one) for one in given]))


def test_a_bad_image_costs_its_row_and_no_other(images, pipeline):
    given = [str(images), str(images / "missing.png")]
    rows = list(answer_rows(Inputs("image", given), "image", embedded(pipeline), batch_size=2))
    assert ["error" in row for row in rows] == [False, False, True, False, False, True]
    assert "broken.png" in rows[2]["error"] and "missing" in rows[5]["error"]
    good = [row for row in rows if "error" not in row]
    expected = pipeline.encode_image([row["image"] for row in good])
    np.testing.assert_allclose([row["embedding"] for row in good], expected, atol=1e-5)


def embedded(pipeline):
    return lambda some: [{"embedding": row.tolist()} for row in pipeline.encode_image(some)]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_rows_are_written_whole_in_every_format(tmp_path, ending):
    schema = pa.schema([("image", "string"), ("embedding", pa.list_(pa.float32())), ("error", "string")])
    rows = [{"image": "x", "error": "broken"}, *({"image": f'{i}, "é"', "embedding": [0.5, i]} for i in range(3000))]
    path = tmp_path / "new" / f"out.{ending}"
    with row_writer(path, schema) as write:
        for row in rows:
            write(row)
        assert not path.exists()
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    if ending == "jsonl":
        found = [json.loads(line) for line in path.read_text().splitlines()]
    elif ending == "csv":
        with path.open(newline="") as file:
            found = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
        found = [{**row, "embedding": json.loads(row["embedding"])} if "embedding" in row else row for row in found]
    else:
        found = [{k: v for k, v in row.items() if v is not None} for row in pq.read_table(path).to_pylist()]
    assert found == rows
    content = path.read_bytes()
    with pytest.raises(UsageError, match="the file exists"), row_writer(path, schema):
        pass
    assert path.read_bytes() == content
    with pytest.raises(UsageError, match=r"\.jsonl, \.csv"), row_writer(tmp_path / "out.xlsx", schema):
        pass


@pytest.fixture
def run(pipeline, monkeypatch, capsys):
    """Runs a command line with the model in place of the one it would load."""
    asked = {}
    monkeypatch.setattr("unimo.inference.load", lambda source, **options: asked.update(options) or pipeline)

    def run(*words, stdin=""):
        monkeypatch.setattr(sys, "argv", ["unimo", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr(), asked

    return run


def test_verbs_answer_every_good_image_and_say_how_many_were_bad(run, images, tmp_path, pipeline):
    out = tmp_path / "captions.jsonl"
    options = ["--max-length", 4, "--device", "cpu", "--precision", "bf16"]
    code, _, told, asked = run("caption", "M", images, "--out", out, *options)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert code == 3 and "1 of 5 images" in told and asked == {"device": "cpu", "precision": "bf16"}
    assert [sorted(row) for row in rows].count(["caption", "image"]) == 4 and "broken.png" in rows[2]["error"]
    good = [row["image"] for row in rows if "caption" in row]
    assert [row["caption"] for row in rows if "caption" in row] == pipeline.caption(good, max_length=4)
    listed = f"{images}/a.png\n{images}/c.png\n"
    code, lines, *_ = run("classify", "M", "-", "--names", "dog,cat", "--batch-size", 1, stdin=listed)
    assert code == 0 and len(lines.splitlines()) == 2 and all("%)" in line for line in lines.splitlines())
    code, *_ = run("encode", "M", "a dog", "a cat", "--texts", "--out", tmp_path / "texts.parquet")
    found = pq.read_table(tmp_path / "texts.parquet").to_pydict()
    assert code == 0 and found["text"] == ["a dog", "a cat"]
    np.testing.assert_allclose(found["embedding"], pipeline.encode_text(["a dog", "a cat"]), atol=1e-6)
    given = [images / name for name in ("broken.png", "nowhere.png", "a.png")]
    code, lines, *_ = run("caption", "M", *given, "--max-length", 3)
    assert code == 3 and [": error: " in line for line in lines.splitlines()] == [True, True, False]
    code, _, told, _ = run("answer", "M", "what colour?", images / "a.png")
    assert code == UsageError.exit_code and "not fine-tuned" in told
