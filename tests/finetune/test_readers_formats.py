"""Tiny files in each published layout, and what the readers make of them."""

from __future__ import annotations

import gzip
import itertools
import json

import numpy as np
import pytest

from unimo.errors import DataError, UsageError
from unimo.finetune.readers import READERS
from unimo.finetune.readers.columns import soft_scores
from unimo.finetune.split import Example, open_examples
from unimo.formats import json_values
from unimo.tokenizer import Tokenizer


def put(path, value):
    data = json.dumps(value).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def found(name, *paths, **options):
    """The rows and errors that a reader gives, without remarks."""
    return [each for each in READERS[name](*paths, **options) if isinstance(each, (Example, DataError))]


def errors(given):
    return [(each.what, each.where) for each in given if isinstance(each, DataError)]


# ---- captions


def karpathy():
    def image(i, split, **more):
        sentences = [{"raw": f"caption {i} {j} .", "tokens": ["caption"], "sentid": 5 * i + j} for j in range(5)]
        return {"filename": f"COCO_val2014_{i:012d}.jpg", "imgid": i, "split": split, "sentences": sentences, **more}

    numbered = [image(i, s, filepath="val2014", cocoid=900 + i) for i, s in enumerate(("train", "restval", "val"))]
    return {"dataset": "coco", "images": [*numbered, image(3, "test")]}


@pytest.mark.parametrize("name", ["dataset_coco.json", "dataset_coco.json.gz"])
def test_karpathy(tmp_path, name):
    path = put(tmp_path / name, karpathy())
    for split, restval, ids in (
        ("train", True, ["900", "901"]),
        ("train", False, ["900"]),
        ("val", True, ["902"]),
        ("val", False, ["902"]),
        ("test", True, ["3"]),
    ):
        assert [e.id for e in open_examples("karpathy", path, split=split, restval=restval).rows] == ids
    row = open_examples("karpathy", path, split="test").rows[0]
    assert (row.id, row.image, len(row.target)) == ("3", "COCO_val2014_000000000003.jpg", 5)
    assert open_examples("table", path, split="val").rows == open_examples("karpathy", path, split="val").rows
    assert open_examples("karpathy", path, split="val").rows[0].image == "val2014/COCO_val2014_000000000002.jpg"
    with pytest.raises(DataError) as caught:
        open_examples("karpathy", path, split="dev")
    assert caught.value.expected == "restval, test, train, val"


def test_karpathy_names_what_is_broken(tmp_path):
    values = karpathy()
    values["images"][0]["sentences"][3]["raw"] = 5
    values["images"][1]["sentences"] = []
    values["images"] += [None, {"split": "train"}]
    assert errors(found("karpathy", put(tmp_path / "a.json", values), split="train")) == [
        ("wrong type of field", "a.json, images[0].sentences[3], field raw"),
        ("image without caption", "a.json, images[1]"),
        ("wrong type of field", "a.json, images[4]"),
        ("field is missing", "a.json, images[5]"),
    ]


def test_coco_captions(tmp_path):
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 4, "height": 4} for i in (391895, 522418, 7)]
    said = [{"image_id": i, "id": n, "caption": f" c{n}\n"} for n, i in enumerate([522418, 391895, 522418])]
    values = {"images": images, "annotations": said}
    examples = open_examples("coco_captions", put(tmp_path / "captions_val2017.json", values))
    assert [(e.id, e.image, e.target) for e in examples.rows] == [
        ("391895", "000000391895.jpg", ("c1",)),
        ("522418", "000000522418.jpg", ("c0", "c2")),
    ]
    assert examples.bad == 1  # image 7 has no caption while others have
    said += [{"image_id": 5, "caption": "of nothing"}, {"image_id": 7, "caption": ""}, {"image_id": "x"}]
    whats = [what for what, _ in errors(found("coco_captions", put(tmp_path / "a.json", values)))]
    assert whats == ["caption of an unknown image", "text is empty", "caption of an unknown image"]
    test = open_examples("coco_captions", put(tmp_path / "image_info_test2014.json", {"images": images}))
    assert len(test) == 3 and not test.labelled


# ---- VQA v2


def official_accuracy(answer, answers):
    """The published rule, taken literally: mean over all sets of nine of the ten people of min(1, agreeing / 3)."""
    nine = itertools.combinations(answers, 9)
    return np.mean([min(1.0, sum(each == answer for each in people) / 3) for people in nine])


def test_soft_scores_are_what_the_official_accuracy_pays():
    rng = np.random.default_rng(0)
    for _ in range(300):
        answers = rng.choice(["yes", "no", "2", "red"], size=10, p=[0.5, 0.25, 0.15, 0.1]).tolist()
        scores = soft_scores(answers)
        assert scores == pytest.approx({a: official_accuracy(a, answers) for a in set(answers)}, abs=1e-12)
    assert soft_scores(["a"] * 3 + ["b"] * 2 + ["c"] + ["d"] * 4) == {"a": 0.9, "b": 0.6, "c": 0.3, "d": 1.0}


def vqa(said):
    asked, answered = [], []
    for i, answers in enumerate(said):
        both = {"image_id": 262148 + i, "question_id": 262148000 + i}
        people = [{"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(answers, start=1)]
        asked.append({**both, "question": f"Where is he looking {i}?"})
        answered.append({**both, "question_type": "where", "answer_type": "other", "answers": people})
    return {"data_subtype": "val2014", "questions": asked}, {"data_subtype": "val2014", "annotations": answered[::-1]}


def test_vqa(tmp_path):
    said = [["Down"] * 3 + ["down"] + ["at table"] * 5 + ["Up"], ["2"] * 10]
    questions, annotations = vqa(said)
    paths = [put(tmp_path / "q.json", questions), put(tmp_path / "a.json.gz", annotations)]
    first, second = open_examples("vqa", paths).rows
    assert (first.id, first.image) == ("262148000", "COCO_val2014_000000262148.jpg")
    assert first.texts == ("Where is he looking 0?",)
    assert first.target == {"down": 1.0, "at table": 1.0, "up": 0.3} and second.target == {"2": 1.0}
    assert first.extra == {
        "answer": "at table",
        "answers": tuple(said[0]),
        "answer_type": "other",
        "question_type": "where",
    }
    shouted = open_examples("vqa", paths, normalise=str.upper)
    assert shouted.rows[0].target == {"DOWN": 1.0, "AT TABLE": 1.0, "UP": 0.3}
    test = open_examples("vqa", paths[0])
    assert not test.labelled and len(test) == 2


def test_vqa_questions_and_answers_that_do_not_meet(tmp_path):
    questions, annotations = vqa([["a"] * 10, [" "] * 10, ["b"] * 10, ["c"] * 10])
    annotations["annotations"].append(annotations["annotations"][0])  # question 3 again
    del annotations["annotations"][1]  # question 2
    del questions["questions"][0]
    questions["questions"][2]["image_id"] = "x"
    got = found("vqa", put(tmp_path / "q.json", questions), put(tmp_path / "a.json", annotations))
    assert [each.what for each in got] == [
        "question is annotated twice",
        *(["question without answers"] * 2),
        "wrong type of field",
        "answers without a question",
    ]
    with pytest.raises(UsageError, match="takes other files") as caught:
        open_examples("vqa", [tmp_path / "q.json", tmp_path / "a.json", tmp_path / "a.json"])
    assert caught.value.expected == "questions, perhaps annotations"


# ---- reading

PASSAGE = "Super Bowl 50 was an American football game."


def squad(version="1.1"):
    def asked(i):
        answers = [{"text": "Super Bowl 50", "answer_start": 0}, {"text": "football", "answer_start": 30}]
        return {"id": f"q{i}", "question": f" Which game {i}? ", "answers": answers}

    paragraphs = [{"context": PASSAGE, "qas": [asked(0), asked(1)]}, {"context": "Another.", "qas": [asked(2)]}]
    return {"version": version, "data": [{"title": "Super_Bowl_50", "paragraphs": paragraphs}]}


def test_squad(tmp_path):
    path = put(tmp_path / "dev-v1.1.json", squad())
    asking = open_examples("squad", path)
    assert [row.id for row in asking.rows] == ["q0", "q1", "q2"] and asking.name == "dev-v1"
    assert (asking.rows[0].texts, asking.rows[0].target) == ((PASSAGE, "Super Bowl 50"), "Which game 0?")
    assert asking.rows[0].extra == {"answer_start": 0, "group": "Super_Bowl_50"}
    joined = open_examples("squad", path, separator="[SEP]")
    assert joined.rows[0].texts == (f"{PASSAGE} [SEP] Super Bowl 50",)
    row = open_examples("squad", path, write="answer").rows[0]
    assert (row.texts, row.target) == ((PASSAGE, "Which game 0?"), "Super Bowl 50")
    assert row.extra["references"] == ("Super Bowl 50", "football")
    with pytest.raises(UsageError):
        open_examples("squad", path, write="questions")


def test_squad_questions_that_cannot_be_asked(tmp_path):
    values = squad("v2.0")
    first, second = values["data"][0]["paragraphs"][0]["qas"]
    first |= {"answers": [], "is_impossible": True}
    second["answers"] = []
    values["data"][0]["paragraphs"] += [{"context": " ", "qas": []}, {"qas": []}]
    values["data"] += ["x", {"paragraphs": [{"context": "c", "qas": [5]}]}]
    path = put(tmp_path / "a.json", values)
    assert errors(found("squad", path)) == [
        ("question without an answer", "a.json, data[0].paragraphs[0].qas[1]"),
        ("text is empty", "a.json, data[0].paragraphs[2], field context"),
        ("field is missing", "a.json, data[0].paragraphs[3]"),
        ("wrong type of field", "a.json, data[1]"),
        ("field is missing", "a.json, data[2].paragraphs[0].qas[0]"),
    ]
    assert open_examples("squad", path).notes == {"left out: question without an answer (SQuAD v2)": 1}


def coqa():
    def said(texts):
        return [{"input_text": text, "turn_id": i, "span_text": ""} for i, text in enumerate(texts, start=1)]

    story = {"id": "3zotg", "source": "mctest", "story": "Once there was a white kitten."}
    story["questions"] = said(["What colour was Cotton?", "Where?", "Why?"])
    story["answers"] = said(["white", "in a barn", "no idea"])
    further = {"0": said(["White", "barn", "unknown"]), "1": said(["white", "a barn", "unknown"])}
    return {"version": "1.0", "data": [{**story, "additional_answers": further}]}


def test_coqa(tmp_path):
    rows = open_examples("coqa", put(tmp_path / "coqa-dev-v1.0.json", coqa())).rows
    assert [row.id for row in rows] == ["3zotg:1", "3zotg:2", "3zotg:3"]
    assert rows[0].texts == ("Once there was a white kitten.", "What colour was Cotton?")
    assert rows[2].texts[1:] == ("What colour was Cotton?", "white", "Where?", "in a barn", "Why?")
    references = ("in a barn", "barn", "a barn")
    assert rows[1].target == "in a barn"
    assert rows[1].extra == {"references": references, "group": "3zotg", "turn": 2, "source": "mctest"}
    for damage, expected in (
        (
            lambda story: story["answers"][1].update(turn_id=7),
            [
                ("answer to another turn", "a.json, data[0].answers[1]"),
                ("turn lacks its history", "a.json, data[0].questions[2]"),
            ],
        ),
        (lambda story: story["answers"].pop(), [("questions and answers do not pair up", "a.json, data[0]")]),
        (
            lambda story: story["additional_answers"]["1"].pop(),
            [("answer is missing", "a.json, data[0].additional_answers[1][2]")],
        ),
    ):
        values = coqa()
        damage(values["data"][0])
        assert errors(found("coqa", put(tmp_path / "a.json", values))) == expected


# ---- JSON lines and plain text


def test_snli_ve_does_not_read_the_premise(tmp_path):
    row = {
        "captionID": "4705552913.jpg#2",
        "gold_label": "contradiction",
        "pairID": "4705552913.jpg#2r1c",
        "sentence1": "Two women are embracing.",
        "sentence2": "The men are fighting outside a deli.",
        "Flickr30K_ID": "4705552913",
    }
    path = tmp_path / "snli_ve_dev.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"pairID": "p", "gold_label": "-"}) + "\n")
    (example,) = open_examples("snli_ve", path).rows
    assert (example.id, example.image) == ("4705552913.jpg#2r1c", "4705552913")
    assert example.texts == ("The men are fighting outside a deli.",) and example.target == "contradiction"
    assert "embracing" not in repr(example)


def test_nlvr_as_published(tmp_path):
    row = {"sentence": "there is a tower", "label": "true", "identifier": "3476-2", "directory": "1", "evals": {}}
    path = tmp_path / "train.json"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"identifier": "9-1", "label": "maybe"}) + "\n")
    got = found("nlvr_json", path)
    assert (got[0].id, got[0].image, got[0].target) == ("3476-2-0", "images/1/train-3476-2-0.png", "true")
    assert errors(got) == [("not a class", "train.json, line 2, field label")]
    assert [e.image[-5] for e in found("nlvr_json", path, orders=6)[:6]] == list("012345")
    with pytest.raises(UsageError):
        found("nlvr_json", path, orders=7)


def test_lines(tmp_path):
    source, target = tmp_path / "train.src.txt", tmp_path / "train.tgt.txt"
    source.write_bytes(b"a big house \r\n\nthird\nfourth \xff\n")
    target.write_bytes(b"a\nb\n \nd")
    got = found("lines", source, target)
    assert (got[0].id, got[0].texts, got[0].target) == ("train.src.txt:1", ("a big house",), "a")
    whats = ["text is empty", "target is empty", "text is not UTF-8"]
    assert [(each.what, each.where.split(",")[1]) for each in got[1:]] == list(
        zip(whats, (" line 2", " line 3", " line 4"))
    )
    assert not open_examples("lines", source, max_bad_fraction=1).labelled
    table = tmp_path / "train.jsonl"  # as Hugging Face has CNN/DailyMail
    table.write_text(json.dumps({"id": "7", "article": "a big house", "highlights": "a house"}))
    (row,) = open_examples("lines", table).rows
    assert (row.id, row.texts, row.target) == ("7", ("a big house",), "a house")
    with pytest.raises(UsageError, match="no columns"):
        open_examples("lines", source, fields={"text": "article"})
    (tmp_path / "s.gz").write_bytes(gzip.compress(b"1\n2\n3\n"))
    (tmp_path / "t").write_bytes(b"1\n2")
    with pytest.raises(DataError, match="different numbers of lines") as caught:
        open_examples("lines", [tmp_path / "s.gz", tmp_path / "t"])
    assert caught.value.got == "3 and 2 lines"


def test_line_separators_of_unicode_are_no_line_ends(tmp_path):
    """What str.splitlines would cut, and so shift every line behind it against its target."""
    texts = [f"one{mark}two" for mark in "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"]
    (tmp_path / "s").write_text("\n".join(texts) + "\n", encoding="utf-8")
    (tmp_path / "t").write_text("\n".join(map(str, range(len(texts)))) + "\n")
    rows = open_examples("lines", [tmp_path / "s", tmp_path / "t"]).rows
    assert [(row.texts[0], row.target) for row in rows] == [(text, str(i)) for i, text in enumerate(texts)]


def test_stories(tmp_path):
    story = "(CNN) -- It rains.\n\nA lot.\n\n@highlight\n\nRain falls\n\n@highlight\n\nMuch of it\n"
    (tmp_path / "b.story").write_text(story)
    (tmp_path / "a.story").write_text("No summary.\n")
    got = found("stories", tmp_path)
    assert errors(got) == [("story without highlights", "a.story")]
    assert got[1].texts == ("(CNN) -- It rains. A lot.",) and got[1].target == "Rain falls\nMuch of it"
    with pytest.raises(DataError, match="no stories"):
        open_examples("stories", tmp_path / "a.story")


# ---- the release of UNIMO


def test_released_texts(tmp_path):
    (tmp_path / "dev.tsv").write_text("text_a\ttext_b\tlabel\tqid\nA plane.\tAn air plane.\t4.6\t17\n")
    row = open_examples("released", tmp_path / "dev.tsv", kind="regression").rows[0]
    assert (row.id, row.texts, row.target) == ("17", ("A plane.", "An air plane."), 4.6)
    with pytest.raises(DataError, match=r"not a class.*regression"):  # a number with a fraction is a score
        open_examples("released", tmp_path / "dev.tsv")


def test_released_pieces_become_the_text_they_were(tmp_path):
    """Encode with the vocabulary, number as GPT-2 does, write as the release does: reading gives the text again."""
    tokenizer = Tokenizer.default()
    back = {int(ours): gpt2 for gpt2, ours in enumerate(tokenizer.from_gpt2)}

    def pieces(text):
        return " ".join(str(back[i]) for i in tokenizer.encode(text))

    said = ["Who was it?", "a kitten, 2 years old", "Where did she live — and why?"]
    whole = f"{' [SEP] '.join(map(pieces, said))}\t{pieces('in a barn')}\t{pieces('Once there was…')}"
    bad = [f"{pieces('a')} 99999\t{pieces('b')}\t", f"[SEP]\t{pieces('b')}\t"]
    (tmp_path / "train.tsv").write_text("\n".join(["src\ttgt\tknowledge", whole, *bad]) + "\n")
    got = found("released_pieces", tmp_path / "train.tsv")
    assert got[0].texts == ("Once there was…", *said) and got[0].target == "in a barn"
    assert [each.what for each in got[1:]] == ["Neither a GPT-2 id nor a special token", "text is empty"]


# ---- hostile values and files


def places(value, path=()):
    """Every place of a JSON value: paths of keys and indexes."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def with_value(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = with_value(copy[path[0]], path[1:], new)
    return copy


HOSTILE = [None, 0, -1, 1e308, True, "", " ", "x", "\0", "\ud800", [], [None], [[]], {}, {"a": 1}, 10**400]
COCO = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "c"}]}
VQA = vqa([["a"] * 10, ["b"] * 2])
ONE = karpathy()["images"][2]
ONE = {"images": [{**ONE, "sentences": ONE["sentences"][:2]}]}
WHOLE = {"karpathy": ONE, "coco_captions": COCO, "vqa": VQA[1], "squad": squad(), "coqa": coqa()}


@pytest.mark.parametrize("name", WHOLE)
def test_no_value_anywhere_breaks_a_reader(tmp_path, name):
    """Every value of a file replaced by each hostile one: rows stay well-formed, or errors say where."""
    options = {"split": "val"} if name == "karpathy" else {}
    paths = [put(tmp_path / "q.json", VQA[0])] if name == "vqa" else []
    refused = usable = 0
    for path in places(WHOLE[name]):
        for new in HOSTILE:
            put(tmp_path / "a.json", with_value(WHOLE[name], path, new))
            try:
                got = found(name, *paths, tmp_path / "a.json", **options)
            except DataError as error:
                got = [error]
            for each in got:
                if isinstance(each, DataError):
                    assert str(each.where).startswith((str(tmp_path), "a.json", "q.json"))
                    refused += 1
                else:
                    usable += 1
                    assert each.id and (each.texts or each.image)
                    assert all(isinstance(text, str) and text.strip() for text in each.texts)
    assert refused and usable


def test_json_files_that_cannot_be_read(tmp_path, monkeypatch):
    path = put(tmp_path / "a.json.gz", karpathy())
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match="cannot unpack"):
        open_examples("karpathy", path, split="val")
    contents = {"b.json": b'{"images": [', "c.json": b"[]", "d.json": b'{"images": 5}', "e.json": b"\xff{}"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            open_examples("karpathy", tmp_path / name, split="val")
        assert name in str(caught.value.where)
    monkeypatch.setattr(json_values, "MAX_JSON_BYTES", 100)
    with pytest.raises(DataError, match="too large"):
        open_examples("karpathy", put(tmp_path / "f.json", karpathy()), split="val")
