"""What is wrong with rows is counted and named, what is wrong with a file stops; images go by several names."""

from __future__ import annotations

import json

import pytest
from corpora import files_in, image, tar_of
from corpora import jsonl as jsonl_of

from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import open_corpus
from unimo.corpus.image_names import ImageKeys
from unimo.errors import DataError, UsageError
from unimo.finetune.labels import answer_vocabulary, check_labels, labels_of
from unimo.finetune.split import READERS, Example, Examples, open_examples
from unimo.formats.tables import FORMS


def folder_of(root, *names):
    return files_in(root, {name: image(i) for i, name in enumerate(names)})


def metas_of(path, **metas):
    """A tar of images, each with its JSON."""
    members = {}
    for i, (key, meta) in enumerate(metas.items()):
        members |= {f"{key}.png": image(i), f"{key}.json": json.dumps(meta).encode()}
    return tar_of(path, members)


def jsonl(path, *rows):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(jsonl_of(rows))
    return path


def bad_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- policies


def test_a_later_row_with_the_same_id_is_bad(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", *({"id": i % 11, "text": f"t{i}", "label": "x"} for i in range(12)))
    bad = BadSamples(tmp_path / "bad.jsonl")
    examples = open_examples("jsonl", path, bad_samples=bad, max_bad_fraction=0.2)
    assert [row.texts[0] for row in examples.rows] == [f"t{i}" for i in range(11)]
    (entry,) = bad_lines(bad.path)
    assert entry["what"] == "id appears twice" and entry["key"] == "0"
    assert "row 12" in entry["where"] and "row 1 " in entry["got"]
    assert (bad.offered, bad.used, bad.quarantined) == (12, 11, 1) and examples.bad == 1
    with pytest.raises(DataError, match="too many bad rows") as caught:
        open_examples("jsonl", path)
    assert "1 of 12" in caught.value.got and "id appears twice" in caught.value.do


def test_targets_in_all_rows_in_none_or_bad_rows(tmp_path):
    none = jsonl(tmp_path / "test.jsonl", *({"text": f"t{i}", "label": ""} for i in range(3)))
    examples = open_examples("jsonl", none)
    assert len(examples) == 3 and not examples.labelled
    mood = jsonl(tmp_path / "mood.jsonl", *({"text": f"t{i}", "mood": "good"} for i in range(3)))
    for path, named in ((none, "3 x target is missing"), (mood, "no row has a target.*mood.*--column label=")):
        with pytest.raises(DataError, match=named):
            open_examples("jsonl", path, need_targets=True)
    some = jsonl(tmp_path / "train.jsonl", *({"text": f"t{i}", "label": "x" if i else None} for i in range(3)))
    examples = open_examples("jsonl", some)
    assert [row.texts[0] for row in examples.rows] == ["t1", "t2"] and examples.bad == 1


def test_names_of_readers_options_and_files(tmp_path):
    path = jsonl(tmp_path / "train.jsonl", {"text": "t", "label": "x"})
    for name, given, options, error, do in (
        ("jsnol", path, {}, UsageError, "did you mean jsonl?"),
        ("jsonl", path, {"feilds": {}}, UsageError, "did you mean fields?"),
        ("karpathy", path, {"splt": "a"}, UsageError, "did you mean split?"),
        ("coqa", path, {"fields": {"text": "t"}}, UsageError, None),
        ("jsonl", tmp_path / "trian.jsonl", {}, DataError, f"did you mean {path}?"),
        ("jsonl", [], {}, UsageError, None),
        ("lines", [path] * 3, {}, UsageError, "give them in this order"),
    ):
        with pytest.raises(error) as caught:
            open_examples(name, given, **options)
        assert caught.value.do == do, name
    for name, reader in READERS.items():
        assert reader.files and 1 <= reader.needed <= len(reader.files), name
        assert reader.over == "files" or reader.files == ("images",), name
        assert "layout" not in reader.options or name in ("table", *FORMS, "images")


def test_several_files_of_one_split(tmp_path):
    for i in range(3):
        jsonl(tmp_path / f"part-{i}.jsonl", *({"text": f"{i} {j}", "label": "x"} for j in range(2)))
    whole = open_examples("jsonl", tmp_path / "part-*.jsonl")
    listed = open_examples("jsonl", [tmp_path / f"part-{i}.jsonl" for i in range(3)])
    assert [row.texts[0] for row in whole.rows] == ["0 0", "0 1", "1 0", "1 1", "2 0", "2 1"]
    assert list(whole.rows) == list(listed.rows) and whole.fingerprint == listed.fingerprint
    for folder in ("m", "mm"):  # files of one name
        jsonl(tmp_path / folder / "dev.jsonl", *([{"text": folder, "label": "x"}] * 2))
    ids = [row.id for row in open_examples("jsonl", tmp_path / "m*" / "dev.jsonl").rows]
    assert ids == ["m/dev.jsonl:1", "m/dev.jsonl:2", "mm/dev.jsonl:1", "mm/dev.jsonl:2"]
    assert open_examples("jsonl", tmp_path / "m/dev.jsonl").rows[0].id == "dev.jsonl:1"


def test_fingerprint_changes_with_whatever_a_task_would_see(tmp_path):
    a, b = {"text": "a", "label": "x"}, {"text": "b", "label": "y"}
    contents = ((a, b), (b, a), (a,), ({**a, "text": "c"}, b), ({**a, "label": "y"}, b), (a, b))
    seen = [open_examples("jsonl", jsonl(tmp_path / "a.jsonl", *rows)).fingerprint for rows in contents]
    assert len(set(seen)) == 5 and seen[0] == seen[-1]


# ---- images


def test_images_beside_a_table_are_found_by_themselves(tmp_path):
    folder_of(tmp_path, "img/one.png", "img/two.png", "unused.png")
    outside = ["../secret.png", str(tmp_path / "unused.png")]
    names = ["img/" + "0" * 5000, "img/one.png", "./img/two.png", "img/three.png", *outside, None]
    rows = [{"image": name, "question": "q", "answer": "a"} for name in names]
    bad = BadSamples(tmp_path / "bad.jsonl")
    examples = open_examples("jsonl", jsonl(tmp_path / "a.jsonl", *rows), bad_samples=bad)
    assert [row.image for row in examples.rows] == ["img/one.png", "img/two.png"]
    assert examples.images.image_bytes(examples.image_item("img/two.png")) == image(1)
    whats = ["image is missing"] * 2 + ["image path leaves the folder"] * 2 + ["row names no image"]
    assert sorted(entry["what"] for entry in bad_lines(bad.path)) == whats


def test_images_given_apart(tmp_path):
    shown = folder_of(tmp_path / "images", "val2014/COCO_val2014_000000000007.png")
    asked = [{"image_id": i, "question": "q", "question_id": i} for i in (7, 8)]
    (tmp_path / "q.json").write_text(json.dumps({"data_subtype": "val2014", "questions": asked}))
    examples = open_examples("vqa", tmp_path / "q.json", images=shown)
    assert [row.image for row in examples.rows] == ["val2014/COCO_val2014_000000000007.png"] and examples.bad == 1
    opened = open_corpus("images", shown)
    again = open_examples("vqa", tmp_path / "q.json", images=opened)
    assert again.images is opened and again.fingerprint == examples.fingerprint
    found = open_examples("vqa", tmp_path / "q.json")  # below the file by themselves
    assert [row.image for row in found.rows] == [row.image for row in examples.rows]
    (tmp_path / "apart/alone").mkdir(parents=True)
    without = open_examples("vqa", (tmp_path / "q.json").rename(tmp_path / "apart/alone/q.json"))
    assert len(without) == 2 and without.images is None
    with pytest.raises(UsageError, match="no images were given"):
        without.image_item(without.rows[0].image)
    with pytest.raises(DataError, match="no such image"):
        examples.image_item("val2014/COCO_val2014_000000000008.png")


def test_names_that_mean_one_image():
    keys = ImageKeys(["a/x.jpg", "b/x.png", "b/y.jpeg", "000000000009", "3416050480", "dots.in.name.JPG"])
    for name, key in {
        "a/x.jpg": "a/x.jpg",
        "a/x.png": "a/x.jpg",  # another ending of the same name
        "a/x": "a/x.jpg",
        "y": "b/y.jpeg",
        "elsewhere/3416050480.jpg": "3416050480",  # a key without folders: of a tar, which keeps none
        "COCO_train2014_000000000009.jpg": "000000000009",
        "3416050480.jpg": "3416050480",
        "dots.in.name": "dots.in.name.JPG",
    }.items():
        assert keys.find(name, "here") == key, name
    for name in ("x", "c/x", "elsewhere/y.jpeg", "dots.in", "dots", "000000000008", ""):  # x: of two images
        with pytest.raises(DataError):
            keys.find(name, "here")


def test_folder_of_classes(tmp_path):
    root = folder_of(tmp_path / "data", "cat/1.png", "cat/deep/er/2.png", "dog/1.png", "loose.png")
    examples = open_examples("folder", root)
    classes = {row.id: row.target for row in examples.rows}
    assert classes == {"cat/1.png": "cat", "cat/deep/er/2.png": "cat", "dog/1.png": "dog"}
    assert examples.bad == 1 and labels_of(examples) == {"cat": 2, "dog": 1}
    with pytest.raises(DataError, match="column is missing") as caught:
        open_examples("folder", folder_of(tmp_path / "flat", "1.png", "2.png"))
    assert "label" in caught.value.expected


def test_tars_that_say_what_is_asked(tmp_path):
    flowers = {"k1": {"label": 3, "label_name": "sunflower"}, "k2": {"label": 4, "label_name": "rose"}}
    classes = metas_of(tmp_path / "c.tar", **flowers)
    assert labels_of(open_examples("folder", classes)) == {"rose": 1, "sunflower": 1}
    assert labels_of(open_examples("folder", classes, fields={"label": "label"})) == {"3": 1, "4": 1}
    truths = {"k1": {"sentence": "there is", "label": True}, "k2": {"sentence": "no", "label": False}}
    rows = open_examples("nlvr", metas_of(tmp_path / "n.tar", **truths)).rows
    expected = [(("there is",), "k1", "true"), (("no",), "k2", "false")]
    assert [(row.texts, row.image, row.target) for row in rows] == expected
    asked = {"question": "how many?", "answers": ["two", "Chairs", "a bed", "two", "lamp"], "id": "q1"}
    metas = {"k1": {"qas": [asked, {**asked, "id": "q2", "question": 5}]}, "k2": {"qas": []}, "k3": {"qas": "x"}}
    examples = open_examples("questions", metas_of(tmp_path / "q.tar", **metas))
    (row,) = examples.rows
    assert (row.id, row.image, row.target) == ("q1", "k1", {"a bed, chairs, lamp, two": 1.0})
    assert row.extra["answer_set"] == tuple(asked["answers"])
    assert examples.bad == 2 and examples.notes["left out: image without qas"] == 1
    (row,) = open_examples("questions", tmp_path / "q.tar", several="any").rows
    assert row.target == {"two": 1.0, "chairs": 1.0, "a bed": 1.0, "lamp": 1.0}
    captions = metas_of(tmp_path / "p.tar", k1={"captions": ["one", "two"]})
    assert open_examples("images", captions).rows[0].target == ("one", "two")
    with pytest.raises(UsageError, match="stand in their images"):
        open_examples("images", captions, images=captions)


# ---- labels and answers


def rows(*targets):
    return Examples("made", [Example(str(i), ("t",), None, target) for i, target in enumerate(targets)])


def test_labels_are_counted_in_order_and_unseen_ones_are_named():
    assert list(labels_of(rows("b", "a", None, "b")).items()) == [("a", 1), ("b", 2)]
    assert list(labels_of(rows(*["10", "9", "1", "-1", "9"]))) == ["-1", "1", "9", "10"]
    with pytest.raises(UsageError, match="no class"):
        labels_of(rows("a", 1.5))
    test = rows("a", "c", "b", "c", None)
    with pytest.raises(DataError) as caught:
        check_labels(test, labels_of(rows("a", "b")))
    assert caught.value.got == "c (2 rows)" and caught.value.expected == "a, b"
    check_labels(test, ["a", "b", "c", "d"])


def test_vocabulary_of_answers():
    train = [
        Example(f"{answer}{i}", ("q",), "k", {answer: 1.0, "noise": 0.3}, {"answer": answer})
        for answer, n in {"yes": 9, "no": 12, "red": 9, "rare": 8}.items()
        for i in range(n)
    ]
    assert answer_vocabulary(train) == ["no", "red", "yes"]  # "noise" is never the most frequent answer of a question
    assert answer_vocabulary(train, least=1, most=2) == ["no", "red"]
    assert answer_vocabulary([Example("a", (), "k", {"x": 1.0, "y": 1.0})], least=1) == ["x", "y"]
    with pytest.raises(DataError, match="frequent enough") as caught:
        answer_vocabulary(train, least=13)
    assert "12 times" in caught.value.got


@pytest.mark.parametrize("reader, split", [("scenes_qa", "qa"), ("scenes_entailment", "entailment")])
def test_the_made_world(tmp_path, reader, split):
    from unimo.synthetic.dataset import write_world

    write_world(tmp_path / "w", pairs=20, images=0, texts=0, heldout=5, compositional=0, classes=0)
    path = tmp_path / "w" / split / "train.jsonl"
    examples = open_examples(reader, path, images=tmp_path / "w/pairs", need_targets=True)
    asked = bad_lines(path)
    assert len(examples) == len(asked) and examples.bad == 0
    for row, line in zip(examples.rows, asked):
        assert row.image == line["image"] and row.texts == (line.get("question") or line["sentence"],)
        assert row.target == ({line["answer"]: 1.0} if split == "qa" else line["label"])
        assert examples.images.keys[examples.image_item(row.image)] == row.image
