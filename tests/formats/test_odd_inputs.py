"""Usual files with one thing odd about them: read as they are meant, or refused with what is odd and what to do."""

from __future__ import annotations

import gzip
import json

import pyarrow
import pytest
from corpora import files_in, image, jsonl, loosely, opened, tar_of, texts_of
from pyarrow import parquet

from unimo.errors import DataError
from unimo.finetune.split import open_examples

IMAGES = {f"img/{i}.png": image(i) for i in range(2)}
TABLE = "image,caption\nimg/0.png,a dog\nimg/1.png,a cat\n"
LIST = json.dumps([{"image": "img/0.png", "caption": "a dog"}, {"image": "img/1.png", "caption": "a cat"}])
ROWS = [("img/0.png", "a dog"), ("img/1.png", "a cat")]


def columns(named) -> bytes:
    """A Parquet file of (name, values) pairs."""
    sink = pyarrow.BufferOutputStream()
    names, values = zip(*named)
    parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(each) for each in values], names), sink)
    return sink.getvalue().to_pybytes()


READ = {
    "a byte order mark": {"t.csv": "\ufeff" + TABLE},
    "a byte order mark of JSON": {"t.json": "\ufeff" + LIST},
    "Windows paths": {"t.csv": TABLE.replace("img/", ".\\img\\")},
    "Windows line ends": {"t.csv": TABLE.replace("\n", "\r\n")},
    "columns as a spreadsheet writes them": {"t.csv": TABLE.replace("image,caption", "Image,CAPTION")},
    "blanks around the header": {"t.csv": TABLE.replace("image,caption", " image , caption ")},
    "blanks around names": {"t.csv": TABLE.replace("img/0.png,", " img/0.png ,")},
    "the index of a pandas frame": {"t.csv": ",image,caption\n0,img/0.png,a dog\n1,img/1.png,a cat\n"},
    "a last column without a name": {"t.csv": "image,caption,\nimg/0.png,a dog,\nimg/1.png,a cat,\n"},
    "names without their ending": {"t.csv": TABLE.replace(".png", "")},
    "null among captions": {
        "t.jsonl": jsonl({"image": name, "captions": [None, text, float("nan"), " "]} for name, text in ROWS)
    },
    "categories of pandas": {
        "t.parquet": columns(
            (name, pyarrow.array(values).dictionary_encode()) for name, values in zip(("image", "caption"), zip(*ROWS))
        )
    },
}


def written(folder, files):
    encoded = {name: data if isinstance(data, bytes) else data.encode() for name, data in files.items()}
    return files_in(folder, IMAGES | encoded)


@pytest.mark.parametrize("odd", READ)
def test_odd_tables_are_read_as_they_are_meant(odd, tmp_path):
    corpus, bad = opened("pairs", written(tmp_path, READ[odd]))
    found = [(corpus.keys[i], corpus.text(i), corpus.image_bytes(i)) for i in range(len(corpus))]
    assert found == [(name, text, IMAGES[name]) for name, text in ROWS] and bad.quarantined == 0
    assert "" not in corpus.meta(0)


REFUSED = {  # what is odd -> files, what the error calls it, the way out
    "UTF-16": ({"t.csv": TABLE.encode("utf-16")}, "not UTF-8", "iconv -f UTF-16 "),
    "UTF-16 without a mark": ({"t.csv": TABLE.encode("utf-16-le")}, "NUL character", "iconv -f UTF-16LE "),
    "UTF-16 of JSON": ({"t.json": LIST.encode("utf-16")}, "not UTF-8", "iconv -f UTF-16 "),
    "Latin 1": ({"t.csv": TABLE.replace("a ", "\xe0 ").encode("latin1")}, "not UTF-8", "iconv -f WINDOWS-1252 "),
    "no header": ({"t.csv": "".join(f"{name},{text}\n" for name, text in ROWS)}, "without a header", "a first line"),
    "capitals": ({"t.csv": TABLE.replace("img/", "IMG/").replace("png", "PNG")}, "image is missing", "img/0.png?"),
    "numbers as captions": ({"t.jsonl": jsonl([{"image": "img/0.png", "captions": [1]}])}, "wrong type", "repair"),
    "NaN as captions": (
        {"t.parquet": columns([("image", ["img/0.png"]), ("caption", [float("nan")])])},
        "without",
        "add",
    ),
    "two columns of one name": (
        {"t.parquet": columns([("image", ["a"]), ("image", ["b"])])},
        "have one name",
        "rename",
    ),
}


@pytest.mark.parametrize("odd", REFUSED)
def test_odd_tables_are_refused_with_a_way_out(odd, tmp_path):
    files, what, do = REFUSED[odd]
    with pytest.raises(DataError) as caught:
        loosely("pairs", written(tmp_path, files))
    assert what in caught.value.one_line() and do in caught.value.do


def test_a_packed_tar_that_is_not_called_so_is_refused_as_one(tmp_path):
    tar = tar_of(tmp_path / "a.tar", {"a.png": image(0), "a.txt": b"a dog"})
    tar.write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(DataError, match=r"packed by gzip.*gunzip"):
        opened("pairs", tar)


def test_a_list_of_strings_is_a_list_of_texts(tmp_path):
    files_in(tmp_path, {"t.json": json.dumps(["one", "two"]).encode()})
    assert texts_of(opened("texts", tmp_path)[0]) == ["one", "two"]


def test_folders_and_links_called_like_images(tmp_path):
    files_in(tmp_path, {"a.JPG": image(0, "JPEG"), "x.jpg/b.PNG": image(1)})
    (tmp_path / "c.png").symlink_to("x.jpg/b.PNG")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    corpus, bad = loosely("images", tmp_path)
    assert sorted(corpus.keys) == ["a.JPG", "c.png", "x.jpg/b.PNG"]
    assert bad.summary()["reasons"] == {"file is missing": 1}


def test_columns_of_a_task_in_capitals(tmp_path):
    files_in(tmp_path, {"t.csv": b"Text,Label\none,good\ntwo,bad\n"})
    rows = open_examples("table", tmp_path / "t.csv").rows
    assert [(row.texts, row.target) for row in rows] == [(("one",), "good"), (("two",), "bad")]
