"""Which files and samples make up a corpus: inputs that people have, each with the one right account of it."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import random
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unimo
from unimo import paths
from unimo.corpus import finding, indexing, items
from unimo.corpus.bad_samples import Ledger
from unimo.corpus.check import index
from unimo.corpus.corpus import open_corpus
from unimo.errors import DataError, ResourceError, UsageError
from unimo.file_access import _unreadable, read_file
from unimo.finetune.split import open_examples
from unimo.retrieval import open_index
from unimo.train.run_folder import RunFolder


class Letters:
    """A tokenizer that can be checked by eye: one id per UTF-8 byte."""

    fingerprint = "letters"

    def encode_batch(self, texts):
        return [list(text.encode()) for text in texts]


def image(seed: int, form="PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def files_in(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def tar_of(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pairs_of(names, seed=0) -> dict[str, bytes]:
    return {
        name: data
        for i, each in enumerate(names)
        for name, data in ((f"{each}.png", image(seed + i)), (f"{each}.txt", f"caption of {each}".encode()))
    }


def jsonl(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def opened(kind, where, **options):
    """(corpus, ledger) under the usual limit of one per cent."""
    ledger = options.pop("ledger", None) or Ledger()
    corpus = open_corpus(kind, where, tokenizer=Letters(), ledger=ledger, **options)
    assert ledger.offered == ledger.used + ledger.quarantined
    return corpus, ledger


def notes_about(ledger, *words) -> int:
    return sum(count for note, count in ledger.notes.items() if all(word in note for word in words))


# --- img2dataset ------------------------------------------------------------------------------------


def img2dataset(folder: Path, failed=1) -> list[str]:
    """Its default output, two shards of four images, `failed` downloads each; returns keys of the fetched ones."""
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    keys = []
    for shard in range(2):
        rows = []
        for i in range(4 + failed):
            key = f"{shard:05d}{i:04d}"
            row = {"url": f"http://x/{key}", "caption": f"caption of {key}", "key": key, "width": 8, "height": 6}
            row |= {"status": "success", "error_message": None}
            if i >= 4:
                row |= {
                    "status": "failed_to_download",
                    "error_message": "HTTP Error 404",
                    "width": None,
                    "height": None,
                }
            else:
                keys.append(key)
                files = {f"{key}.jpg": image(len(keys), "JPEG"), f"{key}.txt": row["caption"].encode()}
                files_in(folder / f"{shard:05d}", {**files, f"{key}.json": json.dumps(row).encode()})
            rows.append(row)
        parquet.write_table(arrow.Table.from_pylist(rows), folder / f"{shard:05d}.parquet")
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps({"count": len(rows), "successes": 4}))
    return keys


@pytest.mark.parametrize("failed", [0, 1])
def test_case_img2dataset_folders_are_read_as_pairs(failed, tmp_path):
    keys = img2dataset(tmp_path, failed)
    corpus, ledger = opened("pairs", tmp_path)
    assert list(corpus.keys) == [f"{key[:5]}/{key}.jpg" for key in keys] and ledger.quarantined == 0
    assert [corpus.text(i) for i in range(len(corpus))] == [f"caption of {key}" for key in keys]
    assert corpus.meta(5)["url"] == f"http://x/{keys[5]}" and corpus.image_bytes(0) == image(1, "JPEG")
    assert corpus.sample(3).texts == (f"caption of {keys[3]}",)
    assert notes_about(ledger, ".parquet") == 2 and notes_about(ledger, ".json", "image") == 2  # and its statistics
    images, noted = opened("images", tmp_path)
    assert len(images) == len(keys) and noted.quarantined == 0 and notes_about(noted, ".parquet") == 2
    one, _ = opened("pairs", str(tmp_path / "*"))
    assert sorted(one.text(i) for i in range(len(one))) == sorted(f"caption of {key}" for key in keys)


def test_case_downloads_that_are_named_as_failed_are_not_bad(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    good = [
        {"key": f"k{i}", "jpg": image(i), "caption": "c", "status": "success", "error_message": None} for i in range(9)
    ]
    bad = [
        {"key": f"b{i}", "jpg": None, "caption": "c", "status": "failed_to_resize", "error_message": "x"}
        for i in range(4)
    ]
    parquet.write_table(arrow.Table.from_pylist(good + bad), tmp_path / "a.parquet")
    corpus, ledger = opened("pairs", tmp_path)
    assert len(corpus) == 9 and ledger.offered == 9 and notes_about(ledger, "failed_to_resize") == 4
    rows = [{"image": "a.png", "caption": "c"}, {"image": "b.png", "caption": "c", "status": "failed_to_download"}]
    files_in(tmp_path / "t", {"t.jsonl": jsonl(rows), "a.png": image(0)})
    corpus, ledger = opened("pairs", tmp_path / "t")
    assert len(corpus) == 1 and ledger.quarantined == 0 and notes_about(ledger, "failed_to_download") == 1
    silent = [{"image": "a.png", "caption": "c"}, {"image": "b.png", "caption": "c", "status": "draft"}]
    (tmp_path / "t" / "t.jsonl").write_bytes(jsonl(silent))
    assert opened("pairs", tmp_path / "t")[1].quarantined == 1  # missing, and nothing says that it must be


def test_tables_that_are_all_there_is_are_read_and_say_what_they_lack(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    rows = [{"url": "u", "caption": "c"}] * 4
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no usable sample") as caught:
        opened("pairs", tmp_path)
    assert "4 x field is missing" in caught.value.got and "row 0" in caught.value.do and "image" in caught.value.do


def test_images_that_share_a_name_do_not_share_a_caption(tmp_path):
    files_in(tmp_path, {**pairs_of(f"{i:03d}" for i in range(9)), "a.png": image(50), "a.jpg": image(51, "JPEG")})
    (tmp_path / "a.txt").write_text("of which?")
    corpus, ledger = open_corpus_loosely("pairs", tmp_path)
    assert len(corpus) == 9 and ledger.summary()["reasons"] == {"several images share one caption": 2}


def open_corpus_loosely(kind, where, **options):
    return opened(kind, where, max_bad_fraction=1.0, **options)


# --- members of a tar -------------------------------------------------------------------------------


def test_case_variants_of_a_key_are_read_or_named(tmp_path):
    plain, named = pairs_of(f"{i:03d}" for i in range(200)), pairs_of((f"shot{i}.v1" for i in range(50)), 200)
    corpus, ledger = opened("pairs", tar_of(tmp_path / "a.tar", plain | named))
    assert len(corpus) == 250 and ledger.notes == {} and "shot7.v1" in list(corpus.keys)
    assert {corpus.text(i) for i in range(250)} == {
        f"caption of {name[:-4]}" for name in plain | named if "txt" in name
    }


def test_what_of_a_key_is_not_read_is_named(tmp_path):
    one = {"a.jpg": image(0, "JPEG"), "a.txt": b"a", "a.seg.png": image(1), "a.en.txt": b"x", "a.cls": b"3"}
    more = {"b.rgb.png": image(2), "b.txt": b"b", "c.left.png": image(3), "c.right.png": image(4), "c.txt": b"c"}
    rest = {"._d.png": b"mac", "d": b"", "e.v1.txt": b"no image", **pairs_of("fgh", 10)}
    path = tar_of(tmp_path / "a.tar", one | more | rest)
    corpus, ledger = open_corpus_loosely("pairs", path)
    assert {key: corpus.text(i) for i, key in enumerate(corpus.keys)} == {
        "a": "a", "b": "b", "f": "caption of f", "g": "caption of g", "h": "caption of h",
    }  # fmt: skip
    assert corpus.image_bytes(list(corpus.keys).index("b")) == image(2)
    assert ledger.summary()["reasons"] == {"several images share one caption": 2, "caption without image": 1}
    assert notes_about(ledger, "variants of a key") == 2 and notes_about(ledger, "hidden") == 1
    assert notes_about(ledger, ".cls") == 1 and notes_about(ledger, "without an ending") == 1
    assert sum(ledger.notes.values()) == 5
    images, noted = open_corpus_loosely("images", path)
    assert sorted(images.keys) == ["a", "b.rgb", "c.left", "c.right", "f", "g", "h"]
    assert notes_about(noted, "variants of a key") == 1 and notes_about(noted, ".txt") == 8


def test_case_empty_shards_are_noted(tmp_path):
    for name in ("a", "b", "c"):
        tar_of(tmp_path / f"{name}.tar", pairs_of((f"{name}{i:02d}" for i in range(100)), ord(name) * 1000))
    for name in ("d", "e"):
        tar_of(tmp_path / f"{name}.tar", {})
    corpus, ledger = opened("pairs", tmp_path)
    assert len(corpus) == 300 and ledger.quarantined == 0 and ledger.notes == {"shards that hold no samples": 2}
    assert ledger.notes.examples["shards that hold no samples"] == ["d.tar", "e.tar"]
    (tmp_path / "f.tar").touch()  # what was cut off is no empty shard
    assert opened("pairs", tmp_path)[1].summary()["reasons"] == {"tar is cut short": 1}


# --- tables beside images -------------------------------------------------------------------------


def test_case_images_that_a_table_does_not_name_are_said_and_not_bad(tmp_path):
    files_in(tmp_path, {f"images/{i}.png": image(i) for i in range(10)})
    rows = [{"image": f"images/{i}.png", "caption": f"c{i}"} for i in range(10)]
    files_in(tmp_path, {"train.jsonl": jsonl(rows[:8]), "test.jsonl": jsonl(rows[8:])})
    corpus, ledger = opened("pairs", tmp_path / "train.jsonl")
    assert len(corpus) == 8 and ledger.offered == 8 and ledger.notes == {"images that no table names": 2}
    assert sorted(ledger.notes.examples["images that no table names"]) == ["images/8.png", "images/9.png"]
    both, noted = opened("pairs", tmp_path)
    assert len(both) == 10 and noted.notes == {}
    (tmp_path / "images/9.png").write_bytes(image(99))  # no part of the training pairs
    assert opened("pairs", tmp_path / "train.jsonl")[0].fingerprint == corpus.fingerprint
    (tmp_path / "images/7.png").write_bytes(image(98))
    assert opened("pairs", tmp_path / "train.jsonl")[0].fingerprint != corpus.fingerprint


@pytest.mark.parametrize("on_disk, in_table", [("NFD", "NFC"), ("NFC", "NFD")])
def test_case_names_of_another_form_are_found(on_disk, in_table, tmp_path):
    def name(form):
        return unicodedata.normalize(form, "Zoë/Café.jpg")

    files_in(tmp_path, {f"bilder/{name(on_disk)}": image(1), "bilder/b.jpg": image(2)})
    rows = [{"image": f"bilder/{name(in_table)}", "caption": "c"}, {"image": ".\\bilder\\b.jpg", "caption": "d"}]
    (tmp_path / "a.jsonl").write_bytes(jsonl(rows))
    corpus, _ = opened("pairs", tmp_path)
    assert len(corpus) == 2 and {corpus.image_bytes(i) for i in range(2)} == {image(1), image(2)}
    asked = [{"image": f"bilder/{name(in_table)}", "label": "x"}, {"image": "bilder\\b.jpg", "label": "y"}]
    (tmp_path / "rows.jsonl").write_bytes(jsonl(asked))
    examples = open_examples("jsonl", tmp_path / "rows.jsonl", images=tmp_path)
    shown = [examples.images.image_bytes(examples.image_item(row.image)) for row in examples.rows]
    assert shown == [image(1), image(2)]


def test_two_files_that_differ_only_in_form_are_told_apart_or_refused(tmp_path):
    composed, apart = "Café.png", unicodedata.normalize("NFD", "Café.png")
    mixed = "Café\u0323.png"  # a third writing: e, acute and dot below, not in canonical order
    files_in(tmp_path, {composed: image(1), apart: image(2)})
    (tmp_path / "a.jsonl").write_bytes(jsonl({"image": name, "caption": "c"} for name in (composed, apart)))
    corpus, _ = opened("pairs", tmp_path)
    assert [corpus.image_bytes(i) for i in range(2)] == [image(1), image(2)]
    files_in(tmp_path, {unicodedata.normalize("NFC", mixed): image(3), unicodedata.normalize("NFD", mixed): image(4)})
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"image": mixed, "caption": "c"}, {"image": composed, "caption": "c"}]))
    _, ledger = open_corpus_loosely("pairs", tmp_path)
    assert ledger.summary()["reasons"] == {"two files differ only in the form of Unicode": 1}


def test_names_that_are_not_utf8_are_read_by_their_bytes(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(raw)).write_bytes(image(1))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    (tmp_path / "b.png").write_bytes(image(2))
    for _ in range(2):  # built, then from its index
        corpus, _ = opened("images", tmp_path)
        assert {corpus.image_bytes(i) for i in range(2)} == {image(1), image(2)}
        assert all(key.encode() for key in corpus.keys)  # can be printed


# --- which image a row means ----------------------------------------------------------------------


def rows_file(path: Path, *names: str) -> Path:
    path.write_bytes(jsonl({"id": i, "image": name, "label": f"l{i % 2}"} for i, name in enumerate(names)))
    return path


def shown(examples) -> list[bytes]:
    return [examples.images.image_bytes(examples.image_item(row.image)) for row in examples.rows]


@pytest.mark.parametrize("form", ["tar", "folder"])
def test_case_a_key_of_two_shards_is_ambiguous(form, tmp_path):
    both = {
        "a": {"0001.png": image(1), "0002.png": image(3)},
        "b": {"0001.png": image(2), "0002.png": image(3)},
    }
    for name, files in both.items():
        tar_of(tmp_path / f"{name}.tar", files) if form == "tar" else files_in(tmp_path / name, files)
    given = [str(tmp_path / (f"{name}.tar" if form == "tar" else name)) for name in both]
    with pytest.raises(DataError) as caught:
        open_examples("jsonl", rows_file(tmp_path / "r.jsonl", "0001.png"), images=given)
    said = caught.value.one_line()
    assert "several images have this name" in said and all(place in said for place in given)
    way_out = caught.value.do.partition("write ")[2].partition(" in the row")[0]
    rows = rows_file(tmp_path / "r.jsonl", way_out, "b/0001.png", "0002.png")  # 0002: one image, twice
    assert shown(open_examples("jsonl", rows, images=given)) == [image(1), image(2), image(3)]


def test_case_folders_of_a_row_are_never_dropped_where_they_differ(tmp_path):
    files_in(tmp_path / "pics", {"val/1.png": image(1), "val/2.png": image(2), "test/2.png": image(3)})
    for images in (tmp_path / "pics", tmp_path / "pics" / "val"):
        with pytest.raises(DataError) as caught:
            open_examples("jsonl", rows_file(tmp_path / "r.jsonl", "train/1.png"), images=images)
        assert "image is missing" in caught.value.one_line() and "1.png" in caught.value.do
        assert "another folder" in caught.value.do
    good = ("val/1.png", "1.png", "val/1", "pics/val/1.png", "test/2.png")
    examples = open_examples("jsonl", rows_file(tmp_path / "r.jsonl", *good), images=tmp_path / "pics")
    assert shown(examples) == [image(1)] * 4 + [image(3)]
    rooted = open_examples("jsonl", rows_file(tmp_path / "r.jsonl", *good[:4]), images=tmp_path / "pics" / "val")
    assert shown(rooted) == [image(1)] * 4
    with pytest.raises(DataError, match="several images have this name"):
        open_examples("jsonl", rows_file(tmp_path / "r.jsonl", "2.png"), images=tmp_path / "pics")


def test_names_are_found_in_linear_time(tmp_path):
    from unimo.corpus.image_names import ImageKeys

    n = 20_000  # one file name in as many folders: comparing each with each would be 4e8 comparisons
    keys = ImageKeys(f"{i}/image.jpg" for i in range(n))
    assert all(keys.find(f"{i}/image.jpg", "") == f"{i}/image.jpg" for i in range(n))
    for _ in range(2000):
        with pytest.raises(DataError, match="several"):
            keys.find("image.jpg", "")


# --- what cannot be read ----------------------------------------------------------------------------


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
    corpus, ledger = opened("images", tmp_path / pattern)
    assert len(corpus) == 4 and ledger.summary()["reasons"] == {"cannot list folder": 1}
    said = []
    index("images", tmp_path, say=said.append)
    assert any("closed" in line and "Permission denied" in line for line in said) and "1 bad" in said[-1]
    without_permission(monkeypatch, tmp_path, tmp_path / "closed")
    with pytest.raises(DataError, match="cannot list folder"):
        opened("images", tmp_path)


def test_case_what_could_not_be_read_is_read_once_it_can_be(tmp_path, monkeypatch):
    files_in(tmp_path, {f"{i}.png": image(i) for i in range(4)})
    real = read_file

    def broken(path, **options):
        if Path(path).name == "2.png":
            raise _unreadable(path, OSError(errno.EIO, "Input/output error"))
        return real(path, **options)

    for module in (items, indexing):
        monkeypatch.setattr(module, "read_file", broken)
    corpus, ledger = opened("images", tmp_path)
    assert len(corpus) == 3 and ledger.summary()["reasons"] == {"cannot read file": 1}
    built = []
    assert len(opened("images", tmp_path, on_shard=built.append)[0]) == 3 and not built[-1]["built"]
    for module in (items, indexing):
        monkeypatch.setattr(module, "read_file", real)
    corpus, ledger = opened("images", tmp_path)
    assert len(corpus) == 4 and ledger.quarantined == 0


def test_an_unreadable_ledger_is_not_taken_for_an_empty_one(tmp_path):
    with pytest.raises(ResourceError, match="cannot read the report"):
        Ledger(tmp_path)


# --- paths and limits -------------------------------------------------------------------------------


def test_case_braces_are_ranges_and_lists(tmp_path):
    for i in range(3):
        tar_of(tmp_path / f"shards/{i:05d}.tar", pairs_of((f"{i}{j}" for j in range(3)), i * 10))
    corpus, _ = opened("pairs", str(tmp_path / "shards/{00000..00002}.tar"))
    assert len(corpus) == 9
    assert len(opened("pairs", str(tmp_path / "shards/{00002,00000}.tar"))[0]) == 6
    with pytest.raises(DataError) as caught:
        opened("pairs", str(tmp_path / "shards/{00001..00004}.tar"))
    assert "00003.tar" in caught.value.where and "00004.tar" in caught.value.where
    assert "00002" not in caught.value.where
    rows = files_in(tmp_path, {f"{n}.jsonl": jsonl([{"text": n, "label": n}]) for n in ("x", "y")})
    assert len(open_examples("jsonl", str(rows / "{x,y}.jsonl"))) == 2
    tar_of(tmp_path / "{a,b}.tar", pairs_of(["k"]))  # a file of this very name
    assert len(opened("pairs", tmp_path / "{a,b}.tar")[0]) == 1


@pytest.mark.parametrize(
    "text, names",
    [
        ("a{1..3}", ["a1", "a2", "a3"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{0..10..5}x", ["0x", "5x", "10x"]),
        ("{a,b}{1,2}", ["a1", "a2", "b1", "b2"]),
        ("{a,{b,c}d}", ["a", "bd", "cd"]),
        ("{c..a}", ["c", "b", "a"]),
        ("{-1..1}", ["-1", "0", "1"]),
        ("{,x}y", ["y", "xy"]),
        ("{}{a}{a..}", ["{}{a}{a..}"]),
        ("{{{", ["{{{"]),
    ],
)
def test_braces_stand_for_what_a_shell_would_make_of_them(text, names):
    assert list(paths.alternatives(text)) == names


@pytest.mark.parametrize("text", ["{0..99999999999}", "{0..999999}{0..999999}{0..999999}", "{a,b}" * 60, "{" * 4000])
def test_braces_without_end_are_refused(text, monkeypatch):
    monkeypatch.setattr(paths, "MOST_NAMES", 1000)
    with pytest.raises(UsageError):
        paths.expand(text)


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/x", "a/" + "y" * 300, "a\0b", "s3://b/{0..3}.tar"])
@pytest.mark.parametrize(
    "use",
    [
        lambda name: opened("pairs", name),
        lambda name: open_examples("jsonl", name),
        lambda name: Ledger(name),
        lambda name: finding.find_sources("texts", [name]),
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
    import pwd

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(os, "access", lambda *_: False)
    tar_of(tmp_path / "a.tar", pairs_of("xyz"))
    with pytest.raises(UsageError, match="no such home folder") as caught:
        opened("pairs", tmp_path)
    assert "index_dir" in str(caught.value.where)
    assert len(opened("pairs", tmp_path, index_dir=tmp_path / "index")[0]) == 3


@pytest.mark.parametrize("share", [float("nan"), -0.1, 1.5, float("inf"), float("-inf"), "0.1", None, True])
def test_case_a_share_that_is_none_is_refused(share, tmp_path):
    tar_of(tmp_path / "a.tar", pairs_of("xyz"))
    rows = files_in(tmp_path, {"r.jsonl": jsonl([{"text": "t", "label": "l"}])}) / "r.jsonl"
    for use in (
        lambda: opened("pairs", tmp_path / "a.tar", max_bad_fraction=share),
        lambda: open_examples("jsonl", rows, max_bad_fraction=share),
        lambda: Ledger().check(share),
    ):
        with pytest.raises(UsageError, match="not a fraction"):
            use()


# --- refusals ---------------------------------------------------------------------------------------

ROOM = Path(finding.__file__).parent
FILES = [*sorted(ROOM.glob("*.py")), ROOM.parent / "file_access.py", ROOM.parent / "paths.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_case_every_refusal_names_a_place_what_is_right_and_a_way_out(path):
    source = path.read_text()
    lacking = []
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("DataError", "UsageError", "Unread"):
            given = {keyword.arg for keyword in call.keywords}
            if None not in given and not {"where", "expected", "do"} <= given:  # None: parts of an earlier error
                lacking.append((call.lineno, {"where", "expected", "do"} - given))
    assert not lacking


# --- nothing is lost in silence ---------------------------------------------------------------------

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


def told(kind, where, tmp_path) -> tuple[Ledger, set[str], set[str], set[str]]:
    """(ledger, keys of used samples, keys of bad ones, names of what was passed over)."""
    ledger = Ledger(tmp_path / "bad.jsonl")
    used: set[str] = set()
    try:
        used = set(open_corpus(kind, where, tokenizer=Letters(), ledger=ledger, max_bad_fraction=1.0).keys)
    except DataError as error:
        assert error.what.startswith("no usable sample"), error
    assert ledger.offered == ledger.used + ledger.quarantined
    lines = ledger.path.read_text().splitlines() if ledger.path.exists() else []
    bad = {json.loads(line)["key"] for line in lines}
    passed = {name for examples in ledger.notes.examples.values() for name in examples}
    assert len(used) == ledger.used and not used & passed
    return ledger, used, bad, passed


def parts_of(keys: set[str], names: set[str]) -> set[str]:
    """Files or members of samples: an image's own, and those of the same name with another ending."""
    stems = keys | {key.rpartition(".")[0] for key in keys if key in names}
    return {name for name in names if name in keys or any(name.startswith(f"{stem}.") for stem in stems)}


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("kind", ["images", "pairs"])
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_whatever_lies_there_is_used_or_bad_or_passed_over(form, kind, seed, tmp_path, monkeypatch):
    monkeypatch.setattr("unimo.corpus.bad_samples.SHOWN", 10**6)
    rng = random.Random(f"{form} {kind} {seed}")
    tree = random_tree(rng)
    if form == "tar":
        shuffled = rng.sample(sorted(tree.items()), len(tree))
        where = tar_of(tmp_path / "a.tar", shuffled)
    else:
        where = files_in(tmp_path / "tree", tree)
    try:
        ledger, used, bad, passed = told(kind, where, tmp_path)
    except AssertionError as error:
        if f"no {kind} found" in str(error):
            return  # an error that says what is there
        raise
    names = set(tree)
    assert names <= passed | parts_of(used | bad | (passed - names), names), names
    images = {name for name in names if name.endswith(("jpg", "png")) and not name.split("/")[-1].startswith(".")}
    if form == "folder":
        assert images <= used | bad | passed and not (used | bad) & passed
    again = told(kind, where, tmp_path)  # from the index: the same account
    assert (again[0].summary()["notes"], *again[1:]) == (ledger.summary()["notes"], used, bad, passed)


@pytest.mark.parametrize("seed", range(15))
def test_whatever_a_table_names_is_used_or_bad_and_the_rest_is_told(seed, tmp_path, monkeypatch):
    monkeypatch.setattr("unimo.corpus.bad_samples.SHOWN", 10**6)
    rng = random.Random(seed)
    tree = random_tree(rng)
    images = [name for name in tree if name.endswith(("jpg", "png")) and ".hidden" not in name]
    named = [*rng.sample(images, rng.randint(1, len(images))), "gone.jpg", "x/../a.jpg"]
    rows = [{"image": name, "caption": rng.choice(["c", "d", " ", None])} for name in named for _ in range(2)]
    where = files_in(tmp_path / "tree", {**tree, "t.jsonl": jsonl(rows)})
    ledger, used, bad, passed = told("pairs", where, tmp_path)
    assert used <= set(named) and not set(named) & passed
    captioned = {row["image"] for row in rows if (row["caption"] or "").strip()}
    assert captioned - {"x/../a.jpg"} <= used | bad
    assert {name for name in tree if name not in named} <= passed
    assert ledger.quarantined == len(bad) and {row for row in bad if "line" in row} | set(named) >= bad
