"""Released lines of captions, hypotheses and object tags: written here from their description, good and broken."""

from __future__ import annotations

import base64
import gzip
import random
import zlib

import numpy as np
import pytest

from unimo.corpus.released_lines import read_regions_line, regions_of
from unimo.errors import DataError
from unimo.finetune.example import Dropped, Noted
from unimo.finetune.readers import READERS
from unimo.finetune.split import Example, open_examples
from unimo.formats.line_file import SPACING, LineFile
from unimo.tokenizer import Tokenizer

WIDTH, HEIGHT, BOXES, FEATURES, CLASSES = 100, 80, 3, 6, 4
TEXTS = ["A dog runs over the grass.", "two men, one hat", "Snow"]


def blob(table) -> str:
    return base64.b64encode(np.ascontiguousarray(table, "<f4").tobytes()).decode()


def ids_of(text: str) -> list[int]:
    return [0, *Tokenizer.default().encode(text), 2]


def told(text: str | None) -> dict[str, str]:
    """Token, sentence and position ids; nothing where a caption is to be written."""
    ids = [] if text is None else ids_of(text)
    rows = {"ids": ids, "sent": [0] * len(ids), "pos": range(2, 2 + len(ids)), "seg": [0] * len(ids)}
    return {name: " ".join(map(str, row)) for name, row in rows.items()}


def detected(seed=0) -> dict[str, str]:
    rng = np.random.default_rng(seed)
    corners = np.concatenate([rng.uniform(0, 40, (BOXES, 2)), rng.uniform(40, 80, (BOXES, 2))], 1)
    shares = rng.dirichlet(np.ones(CLASSES), BOXES)
    return {
        "n": str(BOXES),
        "boxes": blob(corners),
        "x": blob(rng.standard_normal((BOXES, FEATURES))),
        "p": blob(shares),
    }


def flickr(text, image, caption):
    t = told(text)
    return ";".join([t["ids"], t["sent"], t["pos"], image, caption])


def coco2(text, image, caption, path="train2014/x.jpg", label="1"):
    t = told(text)
    return ";".join([f"COCO_val_{image}", path, caption, t["ids"], t["sent"], t["pos"], t["seg"], label])


def coco(text, image, caption, label="1", **changed):
    t, d = told(text), {**detected(), "w": str(WIDTH), "h": str(HEIGHT), **changed}
    fields = [f"COCO_val_{image}", caption, t["ids"], t["sent"], t["pos"], t["seg"], "", "", d["h"], d["w"], d["n"]]
    return ";".join([*fields, d["boxes"], d["p"], "", d["x"], label])


def entailment(text, image, pair, label="2", **changed):
    t, d = told(text), {**detected(), "w": str(WIDTH), "h": str(HEIGHT), **changed}
    return ";".join(
        [image, pair, label, t["ids"], t["sent"], t["pos"], "", d["w"], d["h"], d["n"], d["boxes"], d["x"], "", ""]
    )


def written(path, lines):
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def found(reader, *paths):
    """Examples, errors, and what was noted or left out."""
    rows = list(READERS[reader](*paths))
    kinds = {kind: [row for row in rows if isinstance(row, kind)] for kind in (Example, DataError, Noted, Dropped)}
    return kinds[Example], kinds[DataError], kinds[Noted] + kinds[Dropped]


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_captions_of_flickr_are_one_row_an_image(tmp_path, ending):
    lines = [flickr(TEXTS[0], "1000", "1"), flickr(TEXTS[2], "2000", "2"), "", flickr(TEXTS[1], "1000", "3")]
    numbers = written(tmp_path / "ids.tsv", ["1000\t1", "2000\t2", "3000\t3"])
    path = written(tmp_path / f"captions{ending}", lines)
    for more, extra in ((), {}), ((numbers,), {"number": "1"}):
        rows, errors, notes = found("released_captions", path, *more)
        assert not errors and not notes
        assert [(row.id, row.image, row.texts, row.target) for row in rows] == [
            ("1000", "1000", (), (TEXTS[0], TEXTS[1])),
            ("2000", "2000", (), (TEXTS[2],)),
        ]
        assert rows[0].extra == extra
    rows = open_examples("released_captions", path).rows
    assert rows[0].target == (TEXTS[0], TEXTS[1])


@pytest.mark.parametrize("line", [coco, coco2])
def test_captions_of_coco_of_both_releases(tmp_path, line):
    """Object tags become the text that is read before a caption is written; without a caption there is no target."""
    lines = [line(TEXTS[0], "42", "7"), line(TEXTS[1], "42", "8"), line(TEXTS[2], "42", "9", label="0")]
    path = written(tmp_path / "c.gz", [*lines, line(None, "43", "10")])
    t = told("dog grass")
    tags = written(
        tmp_path / "tags", [f"42;{t['ids']};{t['sent']};{t['pos']}", f"43;{t['ids']};{t['sent']};{t['pos']}"]
    )
    rows, errors, notes = found("released_captions", path, tags)
    assert not errors and [note.reason for note in notes] == ["caption labelled as another image's"]
    assert [(row.id, row.texts, row.target) for row in rows] == [
        ("42", ("dog grass",), (TEXTS[0], TEXTS[1])),
        ("43", ("dog grass",), None),
    ]
    assert rows[0].image == ("train2014/x.jpg" if line is coco2 else "COCO_val_000000000042")


def test_images_are_found_by_path_and_by_number(tmp_path):
    from PIL import Image

    for name in ("COCO_train2014_000000000042", "COCO_train2014_000000000043"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    images = str(tmp_path)
    first = written(tmp_path / "c16.txt", [coco(TEXTS[0], "42", "1"), coco(TEXTS[1], "43", "2")])
    path = "/disk/of/theirs/COCO_train2014_000000000043.jpg"
    other = written(tmp_path / "c8.txt", [coco2(TEXTS[0], "43", "1", path)])
    keys = [row.image for row in open_examples("released_captions", first, images=images).rows]
    assert keys == [f"COCO_train2014_0000000000{n}.png" for n in (42, 43)]
    assert open_examples("released_captions", other, images=images).rows[0].image == keys[1]


def test_captions_in_several_files_are_a_folder(tmp_path):
    """As COCO was released; an image's captions may stand in two of them, a caption in one."""
    (tmp_path / "parts").mkdir()
    written(tmp_path / "parts" / "0.gz", [coco(TEXTS[0], "42", "1"), coco(TEXTS[1], "43", "2")])
    written(tmp_path / "parts" / "1", [coco(TEXTS[2], "42", "3"), coco(TEXTS[2], "42", "1"), "x"])
    rows, errors, _ = found("released_captions", tmp_path / "parts")
    assert [row.target for row in rows] == [(TEXTS[0], TEXTS[2]), (TEXTS[1],)]
    assert ["1, line 2" in str(errors[0].where), "1, line 3" in str(errors[1].where)] == [True, True]
    assert "0.gz, line 1" in str(errors[0].do)


def test_hypotheses(tmp_path):
    path = written(tmp_path / "e", [entailment(TEXTS[0], "1000", "a", "2"), entailment(TEXTS[1], "1000", "b", "")])
    rows, errors, notes = found("released_entailment", path)
    assert not errors and not notes
    assert [(row.id, row.texts, row.image, row.target) for row in rows] == [
        ("a", (TEXTS[0],), "1000", "2"),
        ("b", (TEXTS[1],), "1000", None),
    ]


def test_ids_that_are_no_encoding_of_their_text_are_told(tmp_path):
    pieces = [Tokenizer.default().encode(letter)[0] for letter in "dog"]  # letter by letter: the text is one piece
    line = flickr("x", "1", "1").replace(told("x")["ids"], " ".join(map(str, [0, *pieces, 2])))
    line = line.replace(";0 0 0;", ";0 0 0 0 0;").replace(";2 3 4;", ";2 3 4 5 6;")
    rows, errors, notes = found("released_captions", written(tmp_path / "c", [line]))
    assert rows[0].target == ("dog",) and not errors and "same pieces" in notes[0].what


ODD = float("nan")
IDS = len(" ".join(told(TEXTS[0])["ids"].split()[:2]))
BROKEN = {
    "a field less": lambda line: line.rpartition(";")[0],
    "a field more": lambda line: line + ";",
    "no whole number": lambda line: line.replace(";2 3", ";2 x", 1),
    "one position less": lambda line: line.replace("2 3 ", "3 ", 1),
    "an id outside": lambda line: line.replace(told(TEXTS[0])["ids"], "0 99999" + told(TEXTS[0])["ids"][IDS:]),
    "no image": lambda line: line.replace("1000", "").replace("COCO_val_42", ""),
}  # fmt: skip


@pytest.mark.parametrize("damage", BROKEN)
@pytest.mark.parametrize(
    "make, reader",
    [(make, "released_captions") for make in (flickr, coco, coco2)] + [(entailment, "released_entailment")],
)
def test_a_broken_line_is_counted_and_named_and_the_others_are_read(tmp_path, make, reader, damage):
    image = "1000" if make in (flickr, entailment) else "42"
    good = [make(text, image, str(i)) for i, text in enumerate(TEXTS)]
    bad = BROKEN[damage](make(TEXTS[0], image, "9"))
    rows, errors, _ = found(reader, written(tmp_path / "lines.txt", [good[0], bad, *good[1:]]))
    assert len(errors) == 1 and "lines.txt, line 2" in str(errors[0].where)
    assert (len(rows[0].target) if reader == "released_captions" else len(rows)) == 3


REGIONS = {
    "blob not divisible": {"x": blob(np.ones(BOXES * FEATURES + 1))},
    "other number of boxes": {"n": str(BOXES + 1)},
    "no boxes": {"n": "0"},
    "negative boxes": {"n": "-3"},
    "a billion boxes": {"n": "999999999"},
    "not base64": {"x": "*" + blob(np.ones((BOXES, FEATURES)))[1:]},
    "cut": {"boxes": blob(np.ones((BOXES, 4)))[:-4]},
    "features that are NaN": {"x": blob(np.full((BOXES, FEATURES), ODD))},
    "boxes outside": {"boxes": blob(np.full((BOXES, 4), 1e6))},
    "an image without size": {"w": "0"},
}


@pytest.mark.parametrize("damage", REGIONS)
@pytest.mark.parametrize("make, reader", [(coco, "released_captions"), (entailment, "released_entailment")])
def test_broken_regions_are_named_by_file_and_line(tmp_path, make, reader, damage):
    good, bad = make(TEXTS[0], "42", "1"), make(TEXTS[1], "42", "2", **REGIONS[damage])
    rows, errors, _ = found(reader, written(tmp_path / "r.gz", [good, bad]))
    assert len(rows) == 1 and len(errors) == 1 and "r.gz, line 2" in str(errors[0].where)


def test_regions_are_those_that_were_written():
    numbers = np.random.default_rng(0)
    corners = np.concatenate([numbers.uniform(0, 40, (BOXES, 2)), numbers.uniform(40, 80, (BOXES, 2))], 1)
    for line in (coco(TEXTS[0], "42", "1"), entailment(TEXTS[0], "42", "1")):
        name, arrays = read_regions_line(line)
        assert name == "42" and (arrays["width"], arrays["height"]) == (WIDTH, HEIGHT)
        np.testing.assert_allclose(arrays["boxes"], corners, rtol=1e-6)
        assert arrays["features"].shape == (BOXES, FEATURES) and ("classes" in arrays) is line.startswith("COCO")
        image = regions_of(line)
        np.testing.assert_allclose(image.boxes[1:, :2], corners[:, :2] / [WIDTH, HEIGHT], rtol=1e-6)
        assert image.boxes[0].tolist() == [0, 0, 1, 1, 1]


def test_lines_of_other_kinds_and_captions_twice(tmp_path):
    lines = [
        flickr(TEXTS[0], "1", "1"),
        coco2(TEXTS[1], "2", "2"),
        flickr(TEXTS[1], "1", "1"),
        flickr(TEXTS[2], "1", "3"),
    ]
    rows, errors, _ = found("released_captions", written(tmp_path / "c", lines))
    assert rows[0].target == (TEXTS[0], TEXTS[2]) and ["line 2" in str(e.where) for e in errors] == [True, False]
    rows, errors, _ = found("released_captions", written(tmp_path / "e", [entailment(TEXTS[0], "1", "1")]))
    assert not rows and len(errors) == 1
    numbers = written(tmp_path / "n", ["1\t5\t6", "2"])
    _, errors, _ = found("released_captions", written(tmp_path / "f", lines[:1]), numbers)
    assert [str(error.where)[:9] for error in errors[:2]] == ["n, line 1", "n, line 2"] and "image 1" in str(
        errors[2].where
    )


# ---- lines by their place


@pytest.mark.parametrize("form", ["plain", "packed", "many streams"])
def test_any_line_is_read_by_its_place(tmp_path, form):
    rng = np.random.default_rng(1)
    lines = [rng.integers(97, 123, n, dtype=np.uint8).tobytes() for n in [0, 1, 70_000, 5, 3_000_000, 0, 12, 40_000]]
    data = b"\n".join(lines)
    if form == "many streams":
        packed = b"".join(gzip.compress(data[i : i + 500_001]) for i in range(0, len(data), 500_001))
    else:
        packed = gzip.compress(data, 1) if form == "packed" else data
    path = tmp_path / ("x" if form == "plain" else "x.gz")
    path.write_bytes(packed)
    file = LineFile(path)
    places = list(file.lines())
    assert [place.number for place in places] == list(range(1, len(lines) + 1))
    assert all(place.head.rstrip(b"\n") == line[:4096].rstrip(b"\n") for place, line in zip(places, lines))
    for i in rng.permutation(len(lines)):
        assert file.read(places[i]).encode() == lines[i]


def test_a_packed_file_is_entered_in_the_middle(tmp_path, monkeypatch):
    """A line costs a little more than SPACING bytes of unpacking, wherever it stands."""
    from unimo.formats import line_file

    monkeypatch.setattr(line_file, "SPACING", 1 << 18)
    lines = [f"{i:06d}" + random.Random(i).randbytes(497).hex() for i in range(20_000)]
    (tmp_path / "x.gz").write_bytes(gzip.compress("\n".join(lines).encode(), 1))
    file = LineFile(tmp_path / "x.gz")
    places = list(file.lines())
    assert [file.read(places[i]) for i in (19_999, 0, 10_000)] == [lines[i] for i in (19_999, 0, 10_000)]
    entries = [at for at, _ in file._unpacked.raw.seek_points()]
    gaps = np.diff([*entries, 20_000 * 1001])
    assert len(entries) > 40 and gaps.max() < 3 * (1 << 18) and SPACING == 16 << 20


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_packed_file_that_is_damaged_is_an_error(tmp_path, damage):
    data = bytearray(zlib.compress(np.random.default_rng(0).bytes(200_000), wbits=31))
    data = data[:-20] if damage == "cut" else data[:5000] + b"\xff" * 50 + data[5050:]
    (tmp_path / "x.gz").write_bytes(data)
    with pytest.raises(DataError, match=r"cannot unpack.*x\.gz"):
        list(LineFile(tmp_path / "x.gz").lines())
