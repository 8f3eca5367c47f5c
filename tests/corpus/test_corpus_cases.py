"""Which files and samples make up a corpus: inputs that people have, each with the one right account of it."""

from __future__ import annotations

import ast
import difflib
import errno
import json
import os
import random
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from corpora import Letters, files_in, image, images_of, jsonl, loosely, opened, pairs_of, tar_of, texts_of
from pyarrow import parquet

import unimo
from unimo import paths
from unimo.corpus import finding, indexing, items
from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.check import check
from unimo.corpus.corpus import open_corpus
from unimo.corpus.image_names import ImageKeys
from unimo.errors import DataError, UsageError, nearest
from unimo.file_access import _unreadable, read_file
from unimo.finetune.split import open_examples
from unimo.retrieval import open_index
from unimo.train.run_folder import RunFolder


def notes_about(bad, *words) -> int:
    return sum(count for note, count in bad.notes.items() if all(word in note for word in words))


def table_of(path: Path, rows: list[dict]) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


# ---- img2dataset


def img2dataset(folder: Path, failed=1) -> list[str]:
    """Its default output, two shards of four images, `failed` downloads each; returns keys of the fetched ones."""
    keys = []
    for shard in range(2):
        rows = []
        for i in range(4 + failed):
            key = f"{shard:05d}{i:04d}"
            row = {"url": f"http://x/{key}", "caption": f"caption of {key}", "key": key, "width": 8, "height": 6}
            row |= {"status": "success", "error_message": None}
            if i >= 4:
                row |= {"status": "failed_to_download", "error_message": "HTTP Error 404", "width": None}
            else:
                keys.append(key)
                files = {f"{key}.jpg": image(len(keys), "JPEG"), f"{key}.txt": row["caption"].encode()}
                files_in(folder / f"{shard:05d}", {**files, f"{key}.json": json.dumps(row).encode()})
            rows.append(row)
        table_of(folder / f"{shard:05d}.parquet", rows)
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps({"count": len(rows), "successes": 4}))
    return keys


@pytest.mark.parametrize("failed", [0, 1])
def test_case_img2dataset_folders_are_read_as_pairs(failed, tmp_path):
    keys = img2dataset(tmp_path, failed)
    corpus, bad = opened("pairs", tmp_path)
    assert list(corpus.keys) == [f"{key[:5]}/{key}.jpg" for key in keys] and bad.quarantined == 0
    assert texts_of(corpus) == [f"caption of {key}" for key in keys]
    assert corpus.meta(5)["url"] == f"http://x/{keys[5]}" and corpus.image_bytes(0) == image(1, "JPEG")
    assert corpus.sample(3).texts == (f"caption of {keys[3]}",)
    assert notes_about(bad, ".parquet") == 2 and notes_about(bad, ".json", "image") == 2  # and its statistics
    images, noted = opened("images", tmp_path)
    assert len(images) == len(keys) and noted.quarantined == 0 and notes_about(noted, ".parquet") == 2
    one, _ = opened("pairs", str(tmp_path / "*"))
    assert sorted(texts_of(one)) == sorted(texts_of(corpus))
    tars = {path.name: path.read_bytes() for path in sorted((tmp_path / "00000").iterdir())}
    tar_of(tmp_path / "tars/00000.tar", tars)  # its tars win over the tables beside them as well
    (tmp_path / "00000.parquet").rename(tmp_path / "tars/00000.parquet")
    for kind in ("pairs", "images"):
        corpus, _ = opened(kind, tmp_path / "tars")
        assert list(corpus.keys) == keys[:4] and [path.name for path, _ in corpus.shards] == ["00000.tar"]


def test_case_downloads_that_are_named_as_failed_are_not_bad(tmp_path):
    rows = [{"key": f"k{i}", "jpg": image(i), "caption": "c", "status": "success"} for i in range(9)]
    rows += [{"key": f"b{i}", "jpg": None, "caption": "c", "status": "failed_to_resize"} for i in range(4)]
    corpus, bad = opened("pairs", table_of(tmp_path / "a.parquet", rows))
    assert len(corpus) == 9 and bad.offered == 9 and notes_about(bad, "failed_to_resize") == 4
    (tmp_path / "a.png").write_bytes(image(0))
    for status, quarantined in ("failed_to_download", 0), ("draft", 1):  # missing, and nothing says that it must be
        rows = [{"image": "a.png", "caption": "c"}, {"image": "b.png", "caption": "c", "status": status}]
        (tmp_path / "t.jsonl").write_bytes(jsonl(rows))
        corpus, bad = opened("pairs", tmp_path / "t.jsonl")
        assert len(corpus) == 1 and bad.quarantined == quarantined
        assert notes_about(bad, "failed_to_download") == 1 - quarantined


def test_case_tables_that_lack_images_say_so(tmp_path):
    table_of(tmp_path / "a.parquet", [{"url": "u", "caption": "c"}] * 4)
    with pytest.raises(DataError, match=r"no usable sample.*4 x field is missing") as caught:
        opened("pairs", tmp_path)
    assert "row 0" in caught.value.where and "image" in caught.value.expected
    rows = [{"image": {"bytes": image(i) if i != 1 else None, "path": f"{i}.png"}, "text": "w"} for i in range(3)]
    corpus, _ = loosely("pairs", table_of(tmp_path / "a.parquet", rows), bad_samples=BadSamples(tmp_path / "bad.jsonl"))
    (entry,) = map(json.loads, (tmp_path / "bad.jsonl").read_text().splitlines())
    assert len(corpus) == 2 and "bytes" in entry["expected"] and entry["do"]
    assert entry["where"] == "a.parquet, row 1, field image" and entry["got"] == "only the path 1.png"


def test_case_a_namesake_in_a_folder_beside_is_another_image(tmp_path):
    files_in(tmp_path, {"other/1.png": image(1), "photos/2.png": image(2)})
    for folder in ("mine", "annotations"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.jsonl").write_bytes(jsonl([{"image": "1.png", "caption": "c"}]))
    with pytest.raises(DataError, match="image is missing"):
        opened("pairs", tmp_path / "mine/t.jsonl")
    corpus, _ = opened("pairs", tmp_path / "annotations/t.jsonl")  # COCO's folder, with its images beside it
    assert images_of(corpus) == [image(1)]


# ---- one sample


def test_case_numbers_nobody_needs_cost_no_pair(tmp_path):
    odd = [b"NaN", b"Infinity", b"-Infinity", b"9" * 5000, b'1, "similarity": 2', b'"\\ud800"', b"1e999"]
    members = {}
    for i in range(50):
        record = b'{"caption": "c%d", "similarity": %s}' % (i, odd[i] if i < len(odd) else b"0.3")
        members |= {f"{i}.png": image(i), f"{i}.json": record}
    corpus, bad = opened("pairs", tar_of(tmp_path / "a.tar", members))
    assert texts_of(corpus) == [f"c{i}" for i in range(50)] and bad.quarantined == 0
    assert np.isnan(corpus.meta(0)["similarity"]) and corpus.meta(1)["similarity"] == float("inf")
    twice = {"0.png": image(0), "0.txt": b"x", "1.png": image(1), "1.json": b'{"caption": "a dog", "caption": "a cat"}'}
    _, bad = loosely("pairs", tar_of(tmp_path / "b.tar", twice))  # this one is needed
    assert bad.summary()["reasons"] == {"wrong type of field": 1}


@pytest.mark.parametrize("strange", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1d"])
def test_case_one_caption_stays_one_caption(strange, tmp_path):
    caption = f"two dogs{strange}run"
    files = {"1.png": image(1), "1.txt": f"{caption}\r\nand a cat\n".encode()}
    for where in (tar_of(tmp_path / "a.tar", files), files_in(tmp_path / "loose", files)):
        corpus, _ = opened("pairs", where)
        assert corpus.sample(0).texts == (caption, "and a cat")


def test_images_that_share_a_name_do_not_share_a_caption(tmp_path):
    files_in(tmp_path, {**pairs_of(f"{i:03d}" for i in range(9)), "a.png": image(50), "a.jpg": image(51, "JPEG")})
    (tmp_path / "a.txt").write_text("of which?")
    corpus, bad = loosely("pairs", tmp_path)
    assert len(corpus) == 9 and bad.summary()["reasons"] == {"several images share one caption": 2}


def test_a_long_line_is_read_and_a_long_name_is_not_printed_whole(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "x" * 10_000_000}, {"y" * 1_000_000: 1}]))
    corpus, bad = loosely("texts", tmp_path / "a.jsonl", bad_samples=BadSamples(tmp_path / "bad"))
    assert corpus.token_counts.tolist() == [10_000_000]
    assert bad.quarantined == 1 and (tmp_path / "bad").stat().st_size < 10_000


# ---- members of a tar


def test_case_variants_of_a_key_are_read_or_named(tmp_path):
    plain, named = pairs_of(f"{i:03d}" for i in range(200)), pairs_of((f"shot{i}.v1" for i in range(50)), 200)
    corpus, bad = opened("pairs", tar_of(tmp_path / "a.tar", plain | named))
    assert len(corpus) == 250 and bad.notes == {} and "shot7.v1" in list(corpus.keys)
    assert set(texts_of(corpus)) == {f"caption of {name[:-4]}" for name in plain | named if "txt" in name}


def test_what_of_a_key_is_not_read_is_named(tmp_path):
    one = {"a.jpg": image(0, "JPEG"), "a.txt": b"a", "a.seg.png": image(1), "a.en.txt": b"x", "a.cls": b"3"}
    more = {"b.rgb.png": image(2), "b.txt": b"b", "c.left.png": image(3), "c.right.png": image(4), "c.txt": b"c"}
    rest = {"._d.png": b"mac", "d": b"", "e.v1.txt": b"no image", **pairs_of("fgh", 10)}
    path = tar_of(tmp_path / "a.tar", one | more | rest)
    corpus, bad = loosely("pairs", path)
    captions = dict(zip(corpus.keys, texts_of(corpus)))
    assert captions == {"a": "a", "b": "b", **{key: f"caption of {key}" for key in "fgh"}}
    assert corpus.image_bytes(list(corpus.keys).index("b")) == image(2)
    assert bad.summary()["reasons"] == {"several images share one caption": 2, "caption without image": 1}
    assert notes_about(bad, "variants of a key") == 2 and sum(bad.notes.values()) == 5
    assert notes_about(bad, "hidden") == notes_about(bad, ".cls") == notes_about(bad, "without an ending") == 1
    images, noted = loosely("images", path)
    assert sorted(images.keys) == ["a", "b.rgb", "c.left", "c.right", "f", "g", "h"]
    assert notes_about(noted, "variants of a key") == 1 and notes_about(noted, ".txt") == 8


def test_case_empty_shards_are_noted(tmp_path):
    for name in ("a", "b", "c"):
        tar_of(tmp_path / f"{name}.tar", pairs_of((f"{name}{i:02d}" for i in range(100)), ord(name) * 1000))
    for name in ("d", "e"):
        tar_of(tmp_path / f"{name}.tar", {})
    corpus, bad = opened("pairs", tmp_path)
    assert len(corpus) == 300 and bad.quarantined == 0 and bad.notes == {"shards that hold no samples": 2}
    assert bad.notes.examples["shards that hold no samples"] == ["d.tar", "e.tar"]
    (tmp_path / "f.tar").touch()  # what was cut off is no empty shard
    assert opened("pairs", tmp_path)[1].summary()["reasons"] == {"tar is cut short": 1}


# ---- tables beside images


def test_case_images_that_a_table_does_not_name_are_said_and_not_bad(tmp_path):
    files_in(tmp_path, {f"images/{i}.png": image(i) for i in range(10)})
    rows = [{"image": f"images/{i}.png", "caption": f"c{i}"} for i in range(10)]
    files_in(tmp_path, {"train.jsonl": jsonl(rows[:8]), "test.jsonl": jsonl(rows[8:])})
    corpus, bad = opened("pairs", tmp_path / "train.jsonl")
    assert len(corpus) == 8 and bad.offered == 8 and bad.notes == {"images that no table names": 2}
    assert sorted(bad.notes.examples["images that no table names"]) == ["images/8.png", "images/9.png"]
    both, noted = opened("pairs", tmp_path)
    assert len(both) == 10 and noted.notes == {}
    (tmp_path / "images/9.png").write_bytes(image(99))  # no part of the training pairs
    assert opened("pairs", tmp_path / "train.jsonl")[0].fingerprint == corpus.fingerprint
    (tmp_path / "images/7.png").write_bytes(image(98))
    assert opened("pairs", tmp_path / "train.jsonl")[0].fingerprint != corpus.fingerprint


@pytest.mark.parametrize("on_disk, in_table", [("NFD", "NFC"), ("NFC", "NFD")])
def test_case_names_of_another_form_are_found(on_disk, in_table, tmp_path):
    there, named = (f"bilder/{unicodedata.normalize(form, 'Zoë/Café.jpg')}" for form in (on_disk, in_table))
    files_in(tmp_path, {there: image(1), "bilder/b.jpg": image(2)})
    rows = [{"image": named, "caption": "c"}, {"image": ".\\bilder\\b.jpg", "caption": "d"}]
    (tmp_path / "a.jsonl").write_bytes(jsonl(rows))
    corpus, _ = opened("pairs", tmp_path)
    assert sorted(images_of(corpus)) == sorted([image(1), image(2)])
    rows = [{"image": named, "label": "x"}, {"image": "bilder\\b.jpg", "label": "y"}]
    (tmp_path / "rows.jsonl").write_bytes(jsonl(rows))
    assert shown(open_examples("jsonl", tmp_path / "rows.jsonl", images=tmp_path)) == [image(1), image(2)]


def test_two_files_that_differ_only_in_form_are_told_apart_or_refused(tmp_path):
    composed, apart = "Café.png", unicodedata.normalize("NFD", "Café.png")
    mixed = "Café\u0323.png"  # a third writing: e, acute and dot below, not in canonical order
    files_in(tmp_path, {composed: image(1), apart: image(2)})
    (tmp_path / "a.jsonl").write_bytes(jsonl({"image": name, "caption": "c"} for name in (composed, apart)))
    assert images_of(opened("pairs", tmp_path)[0]) == [image(1), image(2)]
    files_in(tmp_path, {unicodedata.normalize("NFC", mixed): image(3), unicodedata.normalize("NFD", mixed): image(4)})
    (tmp_path / "a.jsonl").write_bytes(jsonl({"image": name, "caption": "c"} for name in (mixed, composed)))
    _, bad = loosely("pairs", tmp_path)
    assert bad.summary()["reasons"] == {"several images have this name": 1}


def test_names_that_are_not_utf8_are_read_by_their_bytes(tmp_path):
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(image(1))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    (tmp_path / "b.png").write_bytes(image(2))
    for _ in range(2):  # built, then from its index
        corpus, _ = opened("images", tmp_path)
        assert sorted(images_of(corpus)) == sorted([image(1), image(2)])
        assert all(key.encode() for key in corpus.keys)  # can be printed


# ---- which image a row means


def shown(examples) -> list[bytes]:
    return [examples.images.image_bytes(examples.image_item(row.image)) for row in examples.rows]


def asked(tmp_path: Path, images, *names: str):
    """Examples of a table that names these images."""
    rows = [{"id": i, "image": name, "label": f"l{i % 2}"} for i, name in enumerate(names)]
    (tmp_path / "r.jsonl").write_bytes(jsonl(rows))
    return open_examples("jsonl", tmp_path / "r.jsonl", images=images)


@pytest.mark.parametrize("form", ["tar", "folder"])
def test_case_a_key_of_two_shards_is_ambiguous(form, tmp_path):
    given = []
    for name, seed in ("a", 1), ("b", 2):
        files = {"0001.png": image(seed), "0002.png": image(3)}
        where = tmp_path / (f"{name}.tar" if form == "tar" else name)
        given.append(str(tar_of(where, files) if form == "tar" else files_in(where, files)))
    with pytest.raises(DataError, match="several images have this name") as caught:
        asked(tmp_path, given, "0001.png")
    assert all(place in caught.value.one_line() for place in given)
    way_out = caught.value.do.partition("write ")[2].partition(" in the row")[0]
    found = asked(tmp_path, given, way_out, "b/0001.png", "0002.png")  # 0002: one image, twice
    assert shown(found) == [image(1), image(2), image(3)]


def test_case_folders_of_a_row_are_never_dropped_where_they_differ(tmp_path):
    pics = files_in(tmp_path / "pics", {"val/1.png": image(1), "val/2.png": image(2), "test/2.png": image(3)})
    for images in (pics, pics / "val"):
        with pytest.raises(DataError, match=r"image is missing.*1\.png.*another folder"):
            asked(tmp_path, images, "train/1.png")
    good = ("val/1.png", "1.png", "val/1", "pics/val/1.png")
    assert shown(asked(tmp_path, pics, *good, "test/2.png")) == [image(1)] * 4 + [image(3)]
    assert shown(asked(tmp_path, pics / "val", *good)) == [image(1)] * 4
    with pytest.raises(DataError, match="several images have this name"):
        asked(tmp_path, pics, "2.png")


def test_names_are_found_in_linear_time(monkeypatch):
    n = 20_000  # one file name in as many folders: comparing each with each would be 4e8 comparisons
    keys = ImageKeys(f"{i}/image.jpg" for i in range(n))
    assert all(keys.find(f"{i}/image.jpg", "") == f"{i}/image.jpg" for i in range(n))
    for _ in range(2000):
        with pytest.raises(DataError, match="several"):
            keys.find("image.jpg", "")
    looked_at = []
    monkeypatch.setattr(difflib, "get_close_matches", lambda name, names, **_: looked_at.extend([name, *names]) or [])
    assert nearest("x" * 1_000_000, ["y" * 1_000_000]) is None and not looked_at
    nearest("label", ("y" * 1000 if i % 2 else f"c{i}" for i in range(1_000_000)))
    assert len(looked_at) <= 10_001 and max(map(len, looked_at)) <= 200


# ---- what cannot be read


def without_permission(monkeypatch, *folders):
    """Root may list everything, so the refusal is the system call's."""
    real, closed = os.scandir, {os.fspath(folder) for folder in folders}

    def scandir(path="."):
        if os.fspath(path) in closed:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.mark.parametrize("pattern", ["", "**/*.png", "*/*.png"])
def test_case_a_folder_that_may_not_be_listed_is_named(pattern, tmp_path, monkeypatch):
    files_in(tmp_path, {f"{folder}/{i}.png": image(i + len(folder)) for folder in ("a", "closed") for i in range(4)})
    without_permission(monkeypatch, tmp_path / "closed")
    corpus, bad = opened("images", tmp_path / pattern)
    assert len(corpus) == 4 and bad.summary()["reasons"] == {"cannot list folder": 1}
    said = []
    check("images", tmp_path, say=said.append)
    assert any("closed" in line and "Permission denied" in line for line in said) and "1 bad" in said[-2]
    without_permission(monkeypatch, tmp_path, tmp_path / "closed")
    with pytest.raises(DataError, match="cannot list folder"):
        opened("images", tmp_path)


def test_case_what_could_not_be_read_is_read_once_it_can_be(tmp_path, monkeypatch):
    files_in(tmp_path, {f"{i}.png": image(i) for i in range(4)})

    def broken(path, **options):
        if Path(path).name == "2.png":
            raise _unreadable(path, OSError(errno.EIO, "Input/output error"))
        return read_file(path, **options)

    with monkeypatch.context() as patched:
        for module in (items, indexing):
            patched.setattr(module, "read_file", broken)
        corpus, bad = opened("images", tmp_path)
        assert len(corpus) == 3 and bad.summary()["reasons"] == {"cannot read file": 1}
        built = []
        assert len(opened("images", tmp_path, on_shard=built.append)[0]) == 3 and not built[-1]["built"]
    corpus, bad = opened("images", tmp_path)
    assert len(corpus) == 4 and bad.quarantined == 0


# ---- paths and limits


def test_case_braces_are_ranges_and_lists(tmp_path):
    for i in range(3):
        tar_of(tmp_path / f"shards/{i:05d}.tar", pairs_of((f"{i}{j}" for j in range(3)), i * 10))
    assert len(opened("pairs", str(tmp_path / "shards/{00000..00002}.tar"))[0]) == 9
    assert len(opened("pairs", str(tmp_path / "shards/{00002,00000}.tar"))[0]) == 6
    with pytest.raises(DataError) as caught:
        opened("pairs", str(tmp_path / "shards/{00001..00004}.tar"))
    assert [f"0000{i}.tar" in caught.value.where for i in (2, 3, 4)] == [False, True, True]
    rows = files_in(tmp_path, {f"{n}.jsonl": jsonl([{"text": n, "label": n}]) for n in ("x", "y")})
    assert len(open_examples("jsonl", str(rows / "{x,y}.jsonl"))) == 2
    tar_of(tmp_path / "{a,b}.tar", pairs_of(["k"]))  # a file of this very name
    assert len(opened("pairs", tmp_path / "{a,b}.tar")[0]) == 1


BRACES = {
    "a{1..3}": "a1 a2 a3",
    "{08..11}": "08 09 10 11",
    "{3..1}": "3 2 1",
    "{0..10..5}x": "0x 5x 10x",
    "{a,b}{1,2}": "a1 a2 b1 b2",
    "{a,{b,c}d}": "a bd cd",
    "{c..a}": "c b a",
    "{-1..1}": "-1 0 1",
    "{,x}y": "y xy",
    "{}{a}{a..}": "{}{a}{a..}",
    "{{{": "{{{",
}


def test_braces_stand_for_what_a_shell_would_make_of_them(monkeypatch):
    assert {text: " ".join(paths.alternatives(text)) for text in BRACES} == BRACES
    monkeypatch.setattr(paths, "MOST_NAMES", 1000)
    for text in ("{0..99999999999}", "{0..999999}{0..999999}{0..999999}", "{a,b}" * 60, "{" * 4000):
        with pytest.raises(UsageError):
            paths.expand(text)


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/x", "a/" + "y" * 300, "a\0b", "ssh://b/{0..3}.tar"])
@pytest.mark.parametrize(
    "use",
    [
        lambda name: opened("pairs", name),
        lambda name: open_examples("jsonl", name),
        lambda name: BadSamples(name),
        lambda name: finding.find("texts", [name]),
        lambda name: unimo.load(name),
        lambda name: open_index(name),
        lambda name: RunFolder(name),
    ],
)
def test_case_names_that_no_file_can_have_are_named(name, use):
    with pytest.raises(UsageError) as caught:
        use(name)
    assert caught.value.got and caught.value.do


def test_case_a_user_without_a_home_is_told(tmp_path, monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr(os, "access", lambda *_: False)
    tar_of(tmp_path / "a.tar", pairs_of("xyz"))
    with pytest.raises(UsageError, match=r"no such home folder.*index_dir"):
        opened("pairs", tmp_path)
    assert len(opened("pairs", tmp_path, index_dir=tmp_path / "index")[0]) == 3


@pytest.mark.parametrize("fraction", [float("nan"), -0.1, 1.5, float("inf"), float("-inf"), "0.1", None, True])
def test_case_a_fraction_that_is_none_is_refused(fraction, tmp_path):
    tar_of(tmp_path / "a.tar", pairs_of("xyz"))
    rows = files_in(tmp_path, {"r.jsonl": jsonl([{"text": "t", "label": "l"}])}) / "r.jsonl"
    for use in (
        lambda: opened("pairs", tmp_path / "a.tar", max_bad_fraction=fraction),
        lambda: open_examples("jsonl", rows, max_bad_fraction=fraction),
        lambda: BadSamples().check(fraction),
    ):
        with pytest.raises(UsageError, match="not a fraction"):
            use()


PACKAGE = Path(unimo.__file__).parent


@pytest.mark.parametrize(
    "path",
    sorted(path for part in ("corpus/*", "formats/*", "file_access", "paths") for path in PACKAGE.glob(f"{part}.py")),
    ids=lambda path: path.stem,
)
def test_case_every_refusal_names_a_place_what_is_right_and_a_way_out(path):
    lacking = []
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("DataError", "UsageError", "Unread"):
            given = {keyword.arg for keyword in call.keywords}
            if None not in given and not {"where", "expected", "do"} <= given:  # None: parts of an earlier error
                lacking.append((call.lineno, {"where", "expected", "do"} - given))
    assert not lacking


# ---- nothing is lost in silence

CONTENTS = {
    "jpg": [image(1, "JPEG"), image(2, "JPEG"), b"<html>not found</html>", b""],
    "png": [image(3), image(4), image(5)[:40]],
    "txt": [b"a caption", b"two\nlines", b" ", b"gr\xfc\xdfe"],
    "json": [b'{"caption": "c"}', b"{}", b"[1]", b'{"caption": "c", "status": "failed_to_download"}'],
    "cls": [b"3"],
    "md": [b"notes"],
}
STEMS = ("a", "b", "c", "d.v1", "d.v2", "e.v1", "Caf\u00e9", ".hidden", "00000_stats")


def random_tree(rng: random.Random) -> dict[str, bytes]:
    names = {f"{rng.choice(['', 'x/', 'y/z/'])}{rng.choice(STEMS)}.{rng.choice(list(CONTENTS))}" for _ in range(30)}
    return {name: rng.choice(CONTENTS[name.rpartition(".")[2]]) for name in sorted(names)}


def told(kind, where, tmp_path) -> tuple[BadSamples, set[str], set[str], set[str]]:
    """(report, keys of used samples, keys of bad ones, names of what was passed over)."""
    bad = BadSamples(tmp_path / "bad.jsonl")
    used: set[str] = set()
    try:
        used = set(open_corpus(kind, where, tokenizer=Letters(), bad_samples=bad, max_bad_fraction=1.0).keys)
    except DataError as error:
        assert error.what.startswith("no usable sample"), error
    assert bad.offered == bad.used + bad.quarantined and len(used) == bad.used
    lines = bad.path.read_text().splitlines() if bad.path.exists() else []
    passed = {name for examples in bad.notes.examples.values() for name in examples}
    assert not used & passed
    return bad, used, {json.loads(line)["key"] for line in lines}, passed


def parts_of(keys: set[str], names: set[str]) -> set[str]:
    """Files or members of samples: an image's own, and those of the same name with another ending."""
    stems = keys | {key.rpartition(".")[0] for key in keys if key in names}
    return {name for name in names if name in keys or any(name.startswith(f"{stem}.") for stem in stems)}


@pytest.mark.parametrize("kind", ["images", "pairs"])
@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.parametrize("seed", range(20))
def test_whatever_lies_there_is_used_or_bad_or_passed_over(form, kind, seed, tmp_path, monkeypatch):
    monkeypatch.setattr("unimo.corpus.bad_samples.SHOWN", 10**6)
    rng = random.Random(f"{form} {kind} {seed}")
    tree = random_tree(rng)
    if form == "tar":
        where = tar_of(tmp_path / "a.tar", rng.sample(sorted(tree.items()), len(tree)))
    else:
        where = files_in(tmp_path / "tree", tree)
    try:
        bad, used, quarantined, passed = told(kind, where, tmp_path)
    except AssertionError as error:
        if f"no {kind} found" in str(error):
            return  # an error that says what is there
        raise
    names = set(tree)
    assert names <= passed | parts_of(used | quarantined | (passed - names), names), names
    if form == "folder":
        images = {name for name in names if name.endswith(("jpg", "png")) and not name.split("/")[-1].startswith(".")}
        assert images <= used | quarantined | passed and not (used | quarantined) & passed
    again = told(kind, where, tmp_path)  # from the index: the same account
    assert (again[0].summary()["notes"], *again[1:]) == (bad.summary()["notes"], used, quarantined, passed)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_a_table_names_is_used_or_bad_and_the_rest_is_told(seed, tmp_path, monkeypatch):
    monkeypatch.setattr("unimo.corpus.bad_samples.SHOWN", 10**6)
    rng = random.Random(seed)
    tree = random_tree(rng)
    images = [name for name in tree if name.endswith(("jpg", "png")) and ".hidden" not in name]
    named = [*rng.sample(images, rng.randint(1, len(images))), "gone.jpg", "x/../a.jpg"]
    rows = [{"image": name, "caption": rng.choice(["c", "d", " ", None])} for name in named for _ in range(2)]
    where = files_in(tmp_path / "tree", {**tree, "t.jsonl": jsonl(rows)})
    bad, used, quarantined, passed = told("pairs", where, tmp_path)
    assert used <= set(named) and not set(named) & passed
    captioned = {row["image"] for row in rows if (row["caption"] or "").strip()}
    assert captioned - {"x/../a.jpg"} <= used | quarantined
    assert {name for name in tree if name not in named} <= passed
    assert bad.quarantined == len(quarantined)
    assert {row for row in quarantined if "line" in row} | set(named) >= quarantined
