"""The usual files of the field, written here as their publishers do: each gives the same captions and images."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pyarrow
import pytest
from corpora import files_in, image, image_of, images_of, jsonl, loosely, opened, pairs_of, tar_of, texts_of
from pyarrow import parquet

from unimo.corpus.check import check, guess_kind
from unimo.errors import DataError, UsageError
from unimo.finetune.split import open_examples
from unimo.formats.columns import Fields

SAID = {"a.jpg": ("a dog, running", "the dog"), "b.jpg": ('a "cat"', "cats")}
ROWS = [(name, caption) for name, captions in SAID.items() for caption in captions]
PIXELS = {name: image(i, "JPEG") for i, name in enumerate(SAID)}


def said(corpus) -> dict[str, tuple[str, ...]]:
    """Name of the file -> captions, the images compared."""
    found = {}
    for i in range(len(corpus)):
        name = corpus.keys[i].rpartition("/")[2]
        assert corpus.image_bytes(i) == PIXELS[name]
        found[name] = corpus.sample(i).texts
    return found


def csv_text(header, rows, delimiter=",") -> bytes:
    quote = '"{}"'.format
    lines = [delimiter.join(header), *(delimiter.join(quote(cell.replace('"', '""')) for cell in row) for row in rows)]
    return "\n".join(lines).encode()


def arrow_stream(rows: list[dict]) -> bytes:
    """A shard as `datasets.save_to_disk` writes it: the streaming format of Arrow."""
    table, sink = pyarrow.Table.from_pylist(rows), io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet_of(rows: list[dict]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


def saved(folder: str, rows: list[dict]) -> dict[str, bytes]:
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}
    files = {"data-00000-of-00001.arrow": arrow_stream(rows), "state.json": json.dumps(state).encode()}
    files["dataset_info.json"] = json.dumps({"features": {"image": {"_type": "Image"}}}).encode()
    return {f"{folder}/{name}": data for name, data in files.items()}


def under(folder: str) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in PIXELS.items()}


COCO = {
    "info": {"year": 2017},
    "images": [{"id": i, "file_name": name, "height": 8, "width": 12} for i, name in enumerate(SAID)],
    "licenses": [],
    "annotations": [
        {"image_id": list(SAID).index(name), "id": n, "caption": text} for n, (name, text) in enumerate(ROWS)
    ],
}
INSTANCES = {**COCO, "annotations": [{"image_id": 0, "id": 0, "category_id": 1, "bbox": [0, 0, 1, 1]}]}
KARPATHY = {
    "dataset": "flickr8k",
    "images": [
        {
            "filename": name,
            "imgid": i,
            "split": split,
            "sentids": [i],
            "sentences": [{"raw": text, "tokens": text.split(), "imgid": i, "sentid": 0} for text in captions],
        }
        for i, (name, captions, split) in enumerate(
            [*((name, captions, "train") for name, captions in SAID.items()), ("c.jpg", ["held out"], "test")]
        )
    ],
}
LLAVA = [
    {
        "id": name,
        "image": name,
        "conversations": [
            turn
            for text in captions
            for turn in ({"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": text})
        ],
    }
    for name, captions in SAID.items()
]
BLIP = [{"image": f"val/{name}", "caption": text, "image_id": name} for name, text in ROWS]
HF = [{"image": {"bytes": PIXELS[name], "path": name}, "caption": list(captions)} for name, captions in SAID.items()]
FLICKR30K = "image_name| comment_number| comment\n" + "\n".join(
    f"{name}| {n % 2}| {text} " for n, (name, text) in enumerate(ROWS)
)
TOKENS = "".join(f"{name}#{n % 2}\t{text}\n" for n, (name, text) in enumerate(ROWS)).encode()
METADATA = [{"file_name": name, "text": captions[0]} for name, captions in SAID.items()]
FIRST = {name: captions[:1] for name, captions in SAID.items()}
BESIDE = {
    f"{name[:-4]}.{ending}": data
    for name, captions in SAID.items()
    for ending, data in (("jpg", PIXELS[name]), ("txt", "\n".join(captions).encode()))
}

DOORS = {  # what lies in the folder, what of it is named, what the format is called
    "open_clip csv": ({**under("img"), "t.csv": csv_text(["filepath", "title"], [(f"img/{n}", t) for n, t in ROWS])},
                      "t.csv", "CSV (columns filepath, title)"),
    "open_clip tsv": ({**PIXELS, "t.tsv": "\n".join(["\t".join(r) for r in [("filepath", "title"), *ROWS]]).encode()},
                      "t.tsv", "TSV (columns filepath, title)"),
    "names seen from above the table": ({**under("d/img"), "d/t.csv": csv_text(
        ["filepath", "title"], [(f"d/img/{n}", t) for n, t in ROWS])}, "d/t.csv", "CSV"),
    "kaggle captions.txt": ({**under("Images"), "captions.txt": csv_text(["image", "caption"], ROWS)},
                            "captions.txt", "CSV (columns image, caption)"),
    "coco": ({**under("val2017"), "annotations/captions_val2017.json": json.dumps(COCO).encode(),
              "annotations/instances_val2017.json": json.dumps(INSTANCES).encode()}, "annotations",
             "COCO captions JSON"),
    "coco from above": ({**under("val2017"), "annotations/captions_val2017.json": json.dumps(COCO).encode()}, "",
                        "COCO captions JSON"),
    "karpathy": ({**under("images"), "images/c.jpg": image(9), "dataset_flickr8k.json": json.dumps(KARPATHY).encode()},
                 "dataset_flickr8k.json", "Karpathy's JSON"),
    "flickr30k results.csv": ({**under("flickr30k_images"), "results.csv": FLICKR30K.encode()}, "results.csv",
                              "CSV (| between the columns image_name, comment_number, comment)"),
    "flickr8k token.txt": ({**under("Flicker8k_Dataset"), "Flickr8k_text/Flickr8k.token.txt": TOKENS},
                           "Flickr8k_text/Flickr8k.token.txt", "Flickr's token file"),
    "flickr30k token": ({**under("images"), "results_20130124.token": TOKENS}, "", "Flickr's token file"),
    "blip list": ({**under("val"), "train.json": json.dumps(BLIP).encode()}, "train.json", "JSON list"),
    "llava": ({**under("coco"), "llava.json": json.dumps(LLAVA).encode()}, "llava.json", "LLaVA conversations"),
    "jsonl": ({**PIXELS, "t.jsonl": jsonl({"image": n, "caption": t} for n, t in ROWS)}, "t.jsonl", "JSON lines"),
    "imagefolder csv": ({**under("train"), "train/metadata.csv": csv_text(
        ["file_name", "text"], [tuple(row.values()) for row in METADATA])}, "train", "CSV"),
    "imagefolder jsonl": ({**under("train"), "train/metadata.jsonl": jsonl(METADATA)}, "", "JSON lines"),
    "imagefolder parquet": ({**under("train"), "train/metadata.parquet": parquet_of(METADATA)}, "", "Parquet"),
    "parquet with images": ({"data/train-00000-of-00001.parquet": parquet_of(HF)}, "", "Parquet"),
    "save_to_disk": (saved("saved", HF), "saved", "Arrow"),
    "save_to_disk of splits": ({**saved("saved/train", HF), **saved("saved/test", HF[:1]),
                                "saved/dataset_dict.json": b'{"splits": ["train", "test"]}'}, "saved", "Arrow"),
    "img2dataset parquet": ({"00000.parquet": parquet_of([
        {"key": f"0000{i}", "jpg": PIXELS[n], "caption": c[0], "url": "u", "status": "success"}
        for i, (n, c) in enumerate(SAID.items())])}, "", "Parquet"),
    "image beside .txt": (BESIDE, "", "folder of files"),
}  # fmt: skip


EMBEDDED = ("parquet with images", "img2dataset parquet", "save_to_disk", "save_to_disk of splits")


@pytest.mark.parametrize("door", DOORS)
def test_pairs_of_every_format(door, tmp_path):
    files, named, name = DOORS[door]
    files_in(tmp_path, files)
    corpus, bad = opened("pairs", tmp_path / named)
    expected = FIRST if door.startswith(("imagefolder", "img2dataset")) else SAID
    if door in EMBEDDED:  # rows have numbers, not names
        assert [corpus.sample(i).texts for i in range(2)] == list(expected.values())
        assert images_of(corpus) == list(PIXELS.values())
    else:
        assert said(corpus) == expected
    assert corpus.formats()[0].startswith(name) and bad.quarantined == 0
    assert guess_kind(tmp_path / named, Fields()) == "pairs"
    again, _ = opened("pairs", tmp_path / named)
    assert again.fingerprint == corpus.fingerprint
    if "karpathy" in door:
        assert any("another split (test" in note for note in bad.notes)
        (held_out, _) = opened("pairs", tmp_path / named, fields=Fields.of(["split=test"]))
        assert texts_of(held_out) == ["held out"]


TASKS = [
    *(
        "open_clip csv",
        "open_clip tsv",
        "names seen from above the table",
        "kaggle captions.txt",
        "flickr30k results.csv",
    ),
    *("flickr8k token.txt", "blip list", "llava", "jsonl", "imagefolder csv", "save_to_disk"),
]


@pytest.mark.parametrize("door", TASKS)
def test_tasks_read_the_same_files(door, tmp_path):
    files, named, _ = DOORS[door]
    examples = open_examples("table", files_in(tmp_path, files) / named, kind="retrieval", need_targets=True)
    expected = FIRST if door.startswith("imagefolder") else SAID
    for row, captions, pixels in zip(examples.rows, expected.values(), PIXELS.values()):
        assert (row.target if isinstance(row.target, tuple) else (row.target,)) == captions
        assert examples.images.image_bytes(examples.image_item(row.image)) == pixels
    assert len(examples) == 2 and examples.bad == 0


TEXTS = ["It rained.", "Nobody came,\nor so it seemed."]
OF_TEXTS = {
    "a.md": "\n\n".join(TEXTS).encode(),
    "a.jsonl": jsonl({"content": text} for text in TEXTS),
    "a.json": json.dumps([{"text": text} for text in TEXTS], indent=1).encode(),
    "a.csv": csv_text(["id", "article"], [("1", TEXTS[0]), ("2", TEXTS[1])]),
    "a.parquet": parquet_of([{"text": text} for text in [*TEXTS, ""]]),
    "a.arrow": arrow_stream([{"document": text} for text in TEXTS]),
}


@pytest.mark.parametrize("name", OF_TEXTS)
def test_texts_of_every_form(name, tmp_path):
    files_in(tmp_path, {name: OF_TEXTS[name]})
    corpus, bad = opened("texts", tmp_path)
    assert texts_of(corpus) == (["\n\n".join(TEXTS)] if name == "a.md" else TEXTS)
    assert [bytes(corpus.tokens(i).astype("u1")).decode() for i in range(len(corpus))] == texts_of(corpus)
    assert bad.notes == ({"rows with a blank text": 1} if name == "a.parquet" else {})
    assert guess_kind(tmp_path, Fields()) == "texts"


def test_any_column_is_read_by_its_name_and_a_refusal_says_how(tmp_path):
    files_in(tmp_path, {**PIXELS, "t.csv": csv_text(["photo", "says", "n"], [(n, t, "1") for n, t in ROWS])})
    with pytest.raises(DataError, match="no usable sample") as caught:
        opened("pairs", tmp_path / "t.csv")
    for part in (
        "fields photo, says, n",
        "image in image or image_path",
        '{"image": "photos/1.jpg"',
        "--column image=",
    ):
        assert part in str(caught.value)
    assert "--column image=photo" in caught.value.do and guess_kind(tmp_path / "t.csv", Fields()) == "pairs"
    with pytest.raises(DataError) as caught:
        opened("pairs", tmp_path / "t.csv", fields=Fields.of(["image=photo"]))
    assert "--column caption=says" in caught.value.do
    corpus, _ = opened("pairs", tmp_path / "t.csv", fields=Fields.of(["image=photo", "caption=says"]))
    assert said(corpus) == SAID
    texts, _ = opened("texts", tmp_path / "t.csv", fields=Fields.of(["text=says"]))
    assert texts_of(texts) == [text for _, text in ROWS]
    for given in ("captoin=says", "says", "=x"):
        with pytest.raises(UsageError, match=r"--column") as refused:
            Fields.of([given])
        assert refused.value.do


@pytest.mark.parametrize("form", ["TIFF", "AVIF"])
def test_images_of_further_formats(form, tmp_path):
    stream = io.BytesIO()
    image_of(1).save(stream, form)
    ending = {"TIFF": "tif", "AVIF": "avif"}[form]
    files_in(tmp_path, {f"a.{ending}": stream.getvalue(), "b.png": image(2), "c.heic": b"x"})
    corpus, bad = opened("images", tmp_path)
    assert list(corpus.keys) == [f"a.{ending}", "b.png"] and corpus.sizes.tolist() == [[12, 8]] * 2
    assert bad.notes == {"files ending in .heic, not read as images": 1}


COMMANDS = {"zip": "unzip", "tar.gz": "tar -xf", "xlsx": "read_excel", "docx": "pandoc", "pdf": "pdftotext"}


@pytest.mark.parametrize("ending, command", COMMANDS.items())
def test_what_is_refused_names_a_command_that_converts_it(ending, command, tmp_path):
    name = f"a.{ending}"
    files_in(tmp_path, {name: b"x"})
    for place in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match=r"no pairs found") as caught:
            opened("pairs", place)
        assert command in caught.value.do and str(tmp_path / name) in caught.value.do


def test_images_given_as_texts_are_called_images(tmp_path):
    files_in(tmp_path, {**PIXELS, "Thumbs.db": b"x"})
    with pytest.raises(DataError, match=r"no texts found.*--images"):
        opened("texts", tmp_path)


def test_the_same_name_in_two_folders_is_refused_not_guessed(tmp_path):
    files_in(tmp_path, {**under("x"), "y/a.jpg": image(7), "t.csv": csv_text(["image", "caption"], ROWS)})
    corpus, bad = loosely("pairs", tmp_path / "t.csv")
    assert said(corpus) == {"b.jpg": SAID["b.jpg"]} and bad.summary()["reasons"] == {"several images have this name": 2}


def test_lists_in_a_cell_and_labels(tmp_path):
    rows = [(name, json.dumps(captions), "cat") for name, captions in SAID.items()]
    files_in(tmp_path, {**PIXELS, "t.csv": csv_text(["image", "captions", "label"], rows)})
    corpus, _ = opened("pairs", tmp_path)
    assert said(corpus) == SAID and corpus.labels == ["cat"] * 2


def test_check_says_format_example_duplicates_and_the_command(tmp_path):
    rows = [*ROWS, ("c.jpg", "cats")]
    files = {**PIXELS, "c.jpg": PIXELS["b.jpg"], "t.csv": csv_text(["image", "says"], rows)}
    files_in(tmp_path, files)
    lines: list[str] = []
    check(None, tmp_path / "t.csv", columns=["caption=says"], say=lines.append)
    (tmp_path / "u.csv").write_text("url,caption\nhttp://x/a.jpg,a dog\n")
    with pytest.raises(DataError, match="img2dataset --url_list"):
        check(None, tmp_path / "u.csv", say=print)
    with pytest.raises(DataError, match=r"path does not exist.*did you mean .*t\.csv"):
        check(None, tmp_path / "tt.csv", say=print)
    assert "found: 3 pairs (CSV (columns image, says))" in lines
    assert "example: a.jpg, 12 x 8: 'a dog, running', 'the dog'" in lines
    assert "duplicates: 1 of 3 images, such as b.jpg = c.jpg; 1 of 5 texts" in lines
    assert lines[-1] == f"train on it: unimo pretrain photos --pairs {tmp_path / 't.csv'} --column caption=says"
    folder = tmp_path / "splits"
    files_in(folder, {f"{name}.csv": csv_text(["text"], [(f"of {name}",)]) for name in ("train", "dev", "test")})
    check(None, folder, say=lines.append)
    assert lines[-1].endswith(f"--texts {folder / 'train.csv'} --val-texts {folder / 'dev.csv'}")  # test is left alone
    tar_of(tmp_path / "tars/a.tar", pairs_of("xyz"))
    tar_of(tmp_path / "alone/a.tar", {"x.png": image(1)})
    guessed = {name: guess_kind(tmp_path / name, Fields()) for name in ("tars", "alone")}
    assert guessed == {"tars": "pairs", "alone": "images"}


class Hub:
    """Stands for the library `datasets`: two data sets, a call counted."""

    calls = 0

    def __init__(self, rows=HF):
        self.rows = rows

    def load_dataset(self, name, split):
        Hub.calls += 1
        if name != "owner/pairs":
            raise ConnectionError("no network")
        return Hub(HF if split == "train" else HF[:1])

    def save_to_disk(self, folder):
        files_in(Path(folder), saved(".", self.rows))


def test_a_data_set_of_the_hub_is_fetched_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"unimo\[datasets\].*save_to_disk"):
        opened("pairs", "hf:owner/pairs")
    monkeypatch.setitem(sys.modules, "datasets", Hub())
    for _ in range(2):
        assert images_of(opened("pairs", "hf:owner/pairs")[0]) == list(PIXELS.values())
    assert len(opened("pairs", "hf:owner/pairs:test")[0]) == 1 and Hub.calls == 2
    assert len(open_examples("table", "hf:owner/pairs", kind="retrieval")) == 2
    with pytest.raises(DataError, match=r"hf:owner/other.*no network"):
        opened("pairs", "hf:owner/other")
    assert not [path for path in (tmp_path / "unimo/datasets").iterdir() if path.name.startswith(".")]


def test_documents_of_one_line_longer_than_any_line_may_be(tmp_path, monkeypatch):
    """As COCO's captions of 2017 (92 MB) and Karpathy's dataset_coco.json (144 MB) are."""
    monkeypatch.setattr("unimo.formats.text.MAX_LINE_BYTES", 100)
    monkeypatch.setattr("unimo.formats.documents.PEEKED", 300)
    for name, value in {"coco": COCO, "karpathy": KARPATHY}.items():
        files_in(tmp_path / name, {**PIXELS, "c.jpg": image(9), "t.json": json.dumps(value).encode() + b"\n\n"})
        assert said(opened("pairs", tmp_path / name)[0]) == SAID


def test_blank_cells_and_a_broken_file_cost_only_themselves(tmp_path):
    rows = [*ROWS, ("", "of nothing"), ("a.jpg", " ")]
    files = {**PIXELS, "t.csv": csv_text(["image", "caption"], rows), "u.json": b'[{"image": "a.jpg", "caption": "x"'}
    corpus, bad = loosely("pairs", files_in(tmp_path, files))
    assert said(corpus) == SAID and bad.notes["blank captions"] == 1
    assert bad.summary()["reasons"] == {"row names no image": 1, "image without caption": 1, "broken JSON": 1}
    texts = {"a.json": b'[{"text": 1', "b.jsonl": jsonl([{"text": TEXTS[0]}, {"text": None}, {"words": "x"}])}
    corpus, bad = loosely("texts", files_in(tmp_path / "texts", texts))
    assert texts_of(corpus) == TEXTS[:1] and bad.notes == {"rows with a blank text": 1}
    assert bad.summary()["reasons"] == {"broken JSON": 1, "field is missing": 1}
