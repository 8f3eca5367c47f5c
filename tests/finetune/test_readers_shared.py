"""Every set of ../shared/data is read whole: as many rows as its manifest says, none bad."""

from __future__ import annotations

import json

import pytest

from unimo.finetune.labels import answer_vocabulary, labels_of
from unimo.finetune.overlap import split_overlap, text_overlap, texts_of
from unimo.finetune.split import open_examples

YES_NO = {"0", "1"}
THREE = {"entailment", "neutral", "contradiction"}
TEXTS = [  # reader, folder, segments, classes or type of target
    ("sst2", "text_tasks/sst2", 1, YES_NO),
    ("cola", "text_tasks/cola", 1, YES_NO),
    ("mrpc", "text_tasks/mrpc", 2, YES_NO),
    ("rte", "text_tasks/rte", 2, {"entailment", "not_entailment"}),
    ("snli", "text_tasks/snli", 2, THREE),
    ("sick", "text_tasks/sick", 2, THREE),
    ("stsb", "text_tasks/stsb", 2, float),
    ("squad_sentences", "text_tasks/squad_qg", 1, str),
    ("xquad", "text_tasks/xquad_en", 2, str),
    ("aeslc", "text_tasks/aeslc", 1, str),
    ("dialogsum", "text_tasks/dialogsum", 1, tuple),
    ("visual_entailment", "visual_entailment", 1, THREE),
    ("captions", "flickr8k/captions.jsonl.gz", 0, tuple),
]
IMAGES = [  # reader, pattern, what the manifest counts, number of classes
    *(("folder", f"tiny_imagenet/{split}-*.tar", "samples", 200) for split in ("train", "val")),
    *(("folder", f"tf_flowers/{split}-*.tar", "samples", 5) for split in ("train", "test")),
    *(("nlvr", f"nlvr/{split}-*.tar", "samples", 2) for split in ("train", "dev", "test")),
    *(("images", f"coco_mini/{split}-*.tar", "captions", None) for split in ("train", "val")),
    *(("questions", f"daquar/{split}-*.tar", "questions", None) for split in ("train", "dev", "test")),
]


@pytest.fixture(scope="module")
def data(shared):
    folder = shared / "data"
    if not (folder / "MANIFEST.json").is_file():
        pytest.skip("needs ../shared/data with its MANIFEST.json, which this checkout lacks")
    return folder


@pytest.fixture(scope="module")
def counts(data):
    return json.loads((data / "MANIFEST.json").read_text())


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    return tmp_path_factory.mktemp("indexes")


@pytest.mark.parametrize("reader, folder, segments, target", TEXTS, ids=[row[0] for row in TEXTS])
def test_text_sets(data, counts, reader, folder, segments, target):
    files = [name for name in counts if name.startswith(folder) and name.endswith(".jsonl.gz")]
    assert files
    for name in files:
        examples = open_examples(reader, data / name, need_targets=True, max_bad_fraction=0)
        assert len(examples) == counts[name]["rows"] and examples.bad == 0, name
        assert {len(row.texts) for row in examples.rows} == {segments}
        if isinstance(target, set):
            assert set(labels_of(examples)) == target, name
        else:
            assert all(isinstance(row.target, target) for row in examples.rows)


@pytest.mark.parametrize("reader, pattern, unit, classes", IMAGES, ids=[row[1] for row in IMAGES])
def test_image_sets(data, counts, indexes, reader, pattern, unit, classes):
    expected = sum(counts[str(path.relative_to(data))][unit] for path in data.glob(pattern))
    assert expected
    examples = open_examples(reader, data / pattern, index_dir=indexes, need_targets=True, max_bad_fraction=0)
    got = sum(len(row.target) for row in examples.rows) if unit == "captions" else len(examples)
    assert got == expected and examples.bad == 0
    assert all(examples.image_item(row.image) >= 0 for row in examples.rows)
    assert not classes or len(labels_of(examples)) == classes


def test_daquar_is_as_its_readme_says(data, indexes):
    """Its chance level and its ceiling: "2" is right for 4.8 %, and 89.6 % of the answers occur in training.

    The README counts "red, blue" and "blue, red" as two answers; to us a set is a set, which adds a little.
    """
    train, test = (
        open_examples("questions", data / f"daquar/{split}-*.tar", index_dir=indexes) for split in ("train", "test")
    )
    vocabulary = answer_vocabulary(train, least=1)
    frequencies = dict(json.loads((data / "daquar/train_answers.json").read_text()))
    assert vocabulary[0] == "2"
    assert set(vocabulary) == {", ".join(sorted({*answer.lower().split(", ")})) for answer in frequencies}
    assert sum("2" in row.target for row in test.rows) / len(test) == pytest.approx(0.048, abs=5e-4)
    known = sum(not row.target.keys().isdisjoint(vocabulary) for row in test.rows)
    assert 0.8955 < known / len(test) < 0.91


def test_entailment_about_flickr8k_images(data, counts, indexes):
    for split, tars in (("dev", ["dev-*.tar"]), ("test", ["test-*.tar"]), ("train", ["train-*.tar", "extra-*.tar"])):
        images = [str(data / "flickr8k" / tar) for tar in tars]
        for reader in ("visual_entailment", "snli_ve"):
            rows = data / f"visual_entailment/{split}.jsonl.gz"
            examples = open_examples(reader, rows, images=images, index_dir=indexes, max_bad_fraction=0)
            assert len(examples) == counts[f"visual_entailment/{split}.jsonl.gz"]["rows"] and examples.bad == 0
            assert all(len(row.texts) == 1 for row in examples.rows)  # the premise is the image


def test_flickr8k_captions_by_split(data, indexes):
    def opened(split, images):
        tars = data / f"flickr8k/{images}-*.tar"
        options = {"only": {"split": split}, "images": tars, "index_dir": indexes, "max_bad_fraction": 0}
        return open_examples("captions", data / "flickr8k/captions.jsonl.gz", **options)

    for split, expected in (("dev", 1000), ("test", 900)):
        rows = opened(split, split).rows
        assert len(rows) == expected and sum(len(row.target) for row in rows) == 5 * expected
    # Of images of another split none is there: every row is named, none is quietly kept.
    with pytest.raises(Exception, match="image is missing"):
        opened("test", "dev")


def test_known_overlaps_are_found(data):
    """The README says so: visual_entailment is built of snli rows; xquad passages come from squad_qg's test file."""
    ours = open_examples("visual_entailment", data / "visual_entailment/dev.jsonl.gz")
    snli = [open_examples("snli", data / f"text_tasks/snli/{name}.jsonl.gz") for name in ("dev", "test")]
    hypotheses = [(row.id, row.texts[1]) for examples in snli for row in examples.rows]
    assert text_overlap(hypotheses, texts_of(ours)).exact == len(ours)
    test, dev = (
        open_examples("squad_sentences", data / f"text_tasks/squad_qg/{name}.jsonl.gz") for name in ("test", "dev")
    )
    (found,) = split_overlap(test, dev)
    assert found.exact + found.near < len(dev) / 10
