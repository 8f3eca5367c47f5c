"""Tables of any form become rows, or located errors; what a file says is neither altered nor dropped in silence."""

from __future__ import annotations

import csv
import gzip
import json

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from pyarrow import parquet

from unimo.errors import DataError, UsageError
from unimo.finetune.readers import READERS
from unimo.finetune.split import Example, open_examples
from unimo.formats import text as lines

ROWS = [("a fine film", "good"), ("tabs; commas, and \u201cquotes\u201d", "bad"), ("größe 图像 🐈", "good")]
HYPOTHESIS = settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)


def write(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def jsonl(path, *rows):
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def pairs(examples):
    return [(*row.texts, row.target) for row in examples.rows]


def found(name, path, **options):
    """The rows and errors that a reader gives, without remarks."""
    return [each for each in READERS[name](path, **options) if isinstance(each, (Example, DataError))]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.tsv.gz", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_the_same_rows_in_every_form(tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        parquet.write_table(pyarrow.table({"text": [t for t, _ in ROWS], "label": [c for _, c in ROWS]}), path)
    elif "jsonl" in name:
        jsonl(path, *({"text": t, "label": c} for t, c in ROWS))
    elif "tsv" in name:
        write(path, "text\tlabel\n" + "".join(f"{t}\t{c}\n" for t, c in ROWS))
    else:
        write(path, "text,label\n" + "".join(f'"{t}",{c}\n' for t, c in ROWS))
    examples = open_examples("table", path)
    assert pairs(examples) == ROWS and examples.bad == 0
    assert examples.name == "a" and len({row.id for row in examples.rows}) == 3
    assert any(note.startswith("columns: texts = text, label = label") for note in examples.notes)


printable = some.text(some.characters(exclude_categories=("Cs", "Cc")) | some.sampled_from('",\n"\r\n;'), max_size=40)


@HYPOTHESIS
@given(some.lists(some.tuples(printable, printable), min_size=1, max_size=6), some.sampled_from(",;|\t"))
def test_csv_round_trip(tmp_path, rows, delimiter):
    """Whatever Python's own writer quotes comes back: delimiters, quotes and line ends within fields included."""
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerows([("text", "target"), *rows])
    expected = [(a.strip(), b.strip() or None) if a.strip() else DataError for a, b in rows]
    got = found("csv", path, delimiter=delimiter)
    assert [type(e) if isinstance(e, Exception) else (e.texts[0], e.target) for e in got] == expected


def test_delimiters_quotes_and_line_ends(tmp_path):
    path = write(tmp_path / "dev.tsv", 'sentence\tlabel\n"unbalanced quote\t1\nan inch is 1/12"\t0\n')
    assert pairs(open_examples("sst2", path)) == [('"unbalanced quote', "1"), ('an inch is 1/12"', "0")]
    assert pairs(open_examples("csv", write(tmp_path / "a.csv", 'text;label\n"a, b, c";x\n'))) == [("a, b, c", "x")]
    path = write(tmp_path / "b.csv", "text:label\nfine:x\n")
    assert pairs(open_examples("csv", path, delimiter=":")) == [("fine", "x")]
    for name, d in (("bom.csv", ","), ("bom.tsv", "\t")):
        path = write(tmp_path / name, b"\xef\xbb\xbf" + f"text{d}label\r\nfine{d}x\r\n\r\n".encode())
        assert pairs(open_examples("table", path)) == [("fine", "x")]
    body = "".join(f"row {i},x\n" for i in range(50))
    got = found("csv", write(tmp_path / "c.csv", 'text,label\n"never closed,x\n' + body))
    assert len(got) == 1 and isinstance(got[0], DataError) and "lines 2 to 52" in got[0].where
    before = csv.field_size_limit()  # stays the user's
    path = write(tmp_path / "d.csv", 'text,label\n"' + "word " * 100_000 + '",x\n')
    assert len(open_examples("csv", path).rows[0].texts[0]) == 499_999 and csv.field_size_limit() == before


def test_columns_are_guessed_given_or_taken_away(tmp_path):
    many = write(tmp_path / "many.csv", "id,text,label\n" + "7,a,b\n" * 20)
    with pytest.raises(DataError, match=r"too many bad rows.*id appears twice"):
        open_examples("csv", many)
    content = "id,premise,hypothesis,label,score\n1,one,two,yes,0.5\n1,three,four,no,1.5\n"
    path = write(tmp_path / "a.csv", content)
    examples = open_examples("csv", path, fields={"id": None})
    assert pairs(examples) == [("one", "two", "yes"), ("three", "four", "no")]
    assert "not used: score" in next(iter(examples.notes))
    examples = open_examples("csv", path, fields={"id": None, "text": "hypothesis", "score": "score"})
    assert pairs(examples) == [("two", 0.5), ("four", 1.5)]
    fields = {"id": None, "text": ["label", "hypothesis", "premise"]}
    examples = open_examples("csv", path, fields=fields, kind="regression")
    assert pairs(examples) == [("yes", "two", "one", 0.5), ("no", "four", "three", 1.5)]
    with pytest.raises(DataError) as caught:
        open_examples("csv", path, fields={"text": "premisse"})
    assert caught.value.got.startswith("id, premise") and caught.value.do == "did you mean premise?"
    with pytest.raises(UsageError) as caught:
        open_examples("csv", path, fields={"txt": "premise"})
    assert caught.value.do == "did you mean text?"
    with pytest.raises(DataError, match="no column to read from"):
        open_examples("csv", write(tmp_path / "b.csv", "foo,bar\n1,2\n"))


@pytest.mark.parametrize(("image", "caption"), [("filepath", "title"), ("image", "caption"), ("file_name", "text")])
def test_captions_of_a_task_have_the_columns_of_pairs(tmp_path, image, caption):
    """As open_clip, Kaggle and imagefolder call them; a folder is read by its metadata."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = write(folder / "metadata.csv", f"{image},{caption}\na.jpg,a dog\na.jpg,the dog\nb.jpg,a cat\n")
    (folder / "metadata.csv.pairs.index.safetensors").write_bytes(b"")  # of an earlier `unimo data check`
    for place in (path, folder):
        examples = open_examples("captions", place)
        assert [(row.image, row.target) for row in examples.rows] == [
            ("a.jpg", ("a dog", "the dog")),
            ("b.jpg", "a cat"),
        ]
    with pytest.raises(UsageError, match=r"a folder.*name a file in it"):
        open_examples("sst2", folder)


def test_the_commonest_fault_is_shown(tmp_path):
    rows = [{"text": "a", "label": "x", "id": 0}] * 2 + [{"text": "", "label": "x", "id": i} for i in range(1, 9)]
    with pytest.raises(DataError, match="the first: text is empty"):
        open_examples("jsonl", jsonl(tmp_path / "a.jsonl", *rows, *rows))


def test_a_named_column_plays_no_other_part(tmp_path):
    def columns(row, **options):
        example = open_examples("jsonl", jsonl(tmp_path / "a.jsonl", row), **options).rows[0]
        return example.texts, example.target

    passage = {"context": "c", "question": "q", "answer": "a"}
    assert columns(passage) == (("c", "q"), {"a": 1.0})
    assert columns(passage, fields={"target": "question"}) == (("c",), "q")
    assert columns(passage, fields={"text": ["context", "answer"], "target": "question"}) == (("c", "a"), "q")
    assert columns({"question": "q", "answer": "a"}, kind="generation") == (("q",), "a")
    twelve = {f"s{i}": f"t{i}" for i in range(12)} | {"label": "x"}
    assert columns(twelve, fields={"text": [f"s{i}" for i in range(12)]})[0] == tuple(f"t{i}" for i in range(12))
    with pytest.raises(UsageError, match="text and target at once"):
        columns(passage, fields={"text": "context", "target": "context"})
    with pytest.raises(UsageError, match="classification has another target"):
        columns(passage, fields={"score": "answer"}, kind="classification")
    with pytest.raises(DataError, match="column is missing"):
        open_examples("sst2", write(tmp_path / "a.tsv", "sentence\tlabel\na\tb\n"), fields={"label": "sentence"})
    with pytest.raises(UsageError, match="one column is expected"):
        columns(passage, fields={"label": ["context", "answer"]})
    with pytest.raises(UsageError, match="unknown kind of task"):
        columns(passage, kind="classify")


PEOPLE = ["yes"] * 9 + ["No"]  # ten of them: scored as in VQA v2; fewer answers are a set of right ones
REQUEST = {"image": "k", "question": "q"}


@pytest.mark.parametrize(
    "row, kind, target",
    [
        ({"text": "t", "label": 3}, None, "3"),
        ({"text": "t", "label": True}, None, "true"),
        ({"text": "t", "label": "3"}, "regression", 3.0),
        ({"text": "t", "rating": "-1.5e1"}, None, -15.0),
        ({"text": "t", "summary": "s"}, None, "s"),
        ({"text": "t", "summaries": ["s", " ", "u"]}, None, ("s", "u")),
        ({"image": "k", "captions": ["a", "b"]}, "retrieval", ("a", "b")),
        ({**REQUEST, "answer": "A  Dog"}, None, {"a dog": 1.0}),
        ({**REQUEST, "answers": {"yes": 0.3, "no": 1}}, None, {"yes": 0.3, "no": 1.0}),
        ({**REQUEST, "answers": PEOPLE}, None, {"yes": 1.0, "no": 0.3}),
        ({**REQUEST, "answers": PEOPLE[1:]}, None, {"yes": 1.0, "no": 1.0}),
        ({"text": "q", "answer": "A dog"}, "generation", "A dog"),
    ],
)
def test_four_kinds_from_a_table(row, kind, target, tmp_path):
    example = open_examples("jsonl", jsonl(tmp_path / "a.jsonl", row), kind=kind).rows[0]
    texts = tuple(row[name] for name in ("text", "question") if name in row)
    assert (example.texts, example.image, example.target) == (texts, row.get("image"), target)


def test_rows_of_one_split(tmp_path):
    rows = [{"text": f"t{i}", "label": "x", "split": "dev" if i % 3 else "test"} for i in range(9)]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    examples = open_examples("jsonl", path, only={"split": "test"})
    assert [row.texts[0] for row in examples.rows] == ["t0", "t3", "t6"]
    assert examples.notes["left out: not among the rows to keep"] == 6
    with pytest.raises(DataError) as caught:
        open_examples("jsonl", path, only={"splits": "test"})
    assert caught.value.do == "did you mean split?"
    with pytest.raises(DataError, match="no usable row"):
        open_examples("jsonl", path, only={"split": "train"})


GLUE = {  # a file as published, its first row
    "sst2": ("sentence\tlabel\nhide new secretions \t0\n", (("hide new secretions",), "0")),
    "mnli": (
        "index\tpairID\tgenre\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
        "0\t63735n\tslate\t( x )\tThe new rights are nice\tEveryone likes them\tneutral\tneutral\n",
        (("The new rights are nice", "Everyone likes them"), "neutral"),
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel\n0\tDana Reeve died.\tReeve had an accident.\tnot_entailment\n",
        (("Dana Reeve died.", "Reeve had an accident."), "not_entailment"),
    ),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t70\t71\tHe said so.\tSo he said.\n",
        (("He said so.", "So he said."), "1"),
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel\n0\tWhen?\tIn 1858.\tentailment\n",
        (("When?", "In 1858."), "entailment"),
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n7\t1\t2\tWhy so?\tHow so?\t0\n",
        (("Why so?", "How so?"), "0"),
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tmain\tMSRvid\t2012\t1\tnone\tnone\tA plane is taking off.\tAn air plane.\t4.750\n",
        (("A plane is taking off.", "An air plane."), 4.75),
    ),
    "cola": (
        "gj04\t1\t\tOur friends won't buy this.\ngj04\t0\t*\tThey drank the pub.\n",
        (("Our friends won't buy this.",), "1"),
    ),
}


@pytest.mark.parametrize("task", GLUE)
def test_glue_as_published(tmp_path, task):
    content, first = GLUE[task]
    examples = open_examples(task, write(tmp_path / "dev.tsv", content), max_bad_fraction=0)
    assert (examples.rows[0].texts, examples.rows[0].target) == first
    assert len(examples) == (2 if task == "cola" else 1)


def test_labels_that_are_withheld_or_undecided(tmp_path):
    cola = open_examples("cola", write(tmp_path / "cola.tsv", "index\tsentence\n0\tBill whistled past.\n"))
    sst2 = open_examples("sst2", write(tmp_path / "sst2.tsv", "index\tsentence\n0\tuneasy mishmash\n1\tgood\n"))
    face = open_examples("rte", jsonl(tmp_path / "r.jsonl", {"sentence1": "a", "sentence2": "b", "label": -1}))
    for examples, texts in ((cola, ("Bill whistled past.",)), (sst2, ("uneasy mishmash",)), (face, ("a", "b"))):
        assert not examples.labelled and examples.rows[0].texts == texts
    assert [row.id for row in sst2.rows] == ["0", "1"]
    pair = {"sentence1": "a", "sentence2": "b"}
    rows = [{**pair, "pairID": f"p{i}", "gold_label": label} for i, label in enumerate("en-c-")]
    examples = open_examples("snli", jsonl(tmp_path / "snli_1.0_dev.jsonl", *rows))
    assert [row.id for row in examples.rows] == ["p0", "p1", "p3"] and examples.bad == 0
    assert sum(count for note, count in examples.notes.items() if "did not agree" in note) == 2


def test_scores_outside_their_range_are_bad(tmp_path):
    scores = ["4.2", "nan", "inf", "5.1", "-0.1", "five", "1e400"]
    path = write(tmp_path / "a.tsv", "sentence1\tsentence2\tscore\n" + "".join(f"a{s}\tb\t{s}\n" for s in scores))
    examples = open_examples("stsb", path)
    assert [row.target for row in examples.rows] == [4.2] and examples.bad == 6
    path = write(tmp_path / "b.csv", "text,score\na,inf\nb,-7e300\nc,nan\nd,\u0663\n")
    assert [row.target for row in open_examples("csv", path).rows] == [-7e300, 3.0]  # float() reads all digits
    table = pyarrow.table({"text": ["a", "b", "c"], "score": [1.0, float("nan"), 2.0]})
    parquet.write_table(table, tmp_path / "a.parquet")
    examples = open_examples("parquet", tmp_path / "a.parquet")
    assert [row.target for row in examples.rows] == [1.0, 2.0] and examples.bad == 1


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_bad_rows_are_named_and_the_others_kept(tmp_path, name):
    d = b"\t" if "tsv" in name else b","
    good = [b"fine %d" % i + d + b"x" for i in range(5)]
    bad = [b"byte \xff" + d + b"x", b"nul \0" + d + b"x", b"one field", b"three" + d + b"x" + d + b"y", b" " + d + b"x"]
    content = b"\n".join([b"text" + d + b"label", *(line for pair in zip(good, bad) for line in pair)]) + b"\n"
    got = found("table", write(tmp_path / name, content))
    assert [e.texts[0] for e in got if isinstance(e, Example)] == [f"fine {i}" for i in range(5)]
    errors = [e for e in got if isinstance(e, DataError)]
    assert [e.where.split(" of ")[0].split(",")[1] for e in errors] == [f" line {n}" for n in (3, 5, 7, 9, 11)]
    for error, what in zip(errors, ("not UTF-8", "NUL", "number of fields", "number of fields", "is empty")):
        assert what in error.what


def test_wrong_json_types_are_named(tmp_path):
    rows = [
        {"text": 7, "label": "x"},
        {"text": ["t"], "label": "x"},
        {"text": None, "label": "x"},
        {"label": "x"},
        {"text": "t", "label": {"a": 1}},
        {"text": "t", "label": 0.5},
        {"text": "\ud800", "label": "x"},
        {"text": "a\0b", "label": "x"},
        {"text": "t", "label": "ok", "id": [1]},
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows) + '{"text": NaN}\n[1]\n{broken\n'
    got = found("jsonl", write(tmp_path / "a.jsonl", content))
    assert len(got) == len(rows) + 3 and all(isinstance(each, DataError) for each in got)
    assert all(f"line {i}" in each.where for i, each in enumerate(got, start=1))


def test_lines_beyond_the_limit_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    long = "x" * 100_000
    for name, plain, row in (
        ("a.tsv", ["text\tlabel", "t\tx"], f"{long}\tb"),
        ("a.csv", ["text,label", "t,x"], f"{long},b"),
        ("a.jsonl", ['{"text": "t", "label": "x"}'] * 2, json.dumps({"text": long})),
    ):
        got = found("table", write(tmp_path / name, "\n".join([*plain, row, plain[-1]]) + "\n"))
        (error,) = [each for each in got if isinstance(each, DataError)]
        assert "too long" in error.what and "line 3" in error.where
        assert [each.texts for each in got if each is not error] == [("t",)] * (3 if "json" in name else 2)


def test_a_file_that_ends_early_is_refused(tmp_path):
    whole = gzip.compress(("text\tlabel\n" + "".join(f"row {i * 7919}\tx\n" for i in range(5000))).encode())
    for name in ("a.tsv.gz", "a.csv.gz"):
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match="cannot unpack file"):
            open_examples("table", tmp_path / name, delimiter="\t")
    parquet.write_table(pyarrow.table({"text": ["a"] * 100}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cannot read Parquet file"):
        open_examples("table", tmp_path / "a.parquet")


def test_headers_that_cannot_be_trusted(tmp_path):
    for name, content, error, what in (
        ("a.csv", "text,label,text\na,b,c\n", DataError, "two columns have one name"),
        ("b.csv", "text,label\na,b\n".encode("utf-16"), DataError, r"UTF-8.*UTF-16"),
        ("c.csv", "", DataError, "no usable row"),
        ("d.xlsx", "text,label\na,b\n", UsageError, "unknown kind of table"),
    ):
        with pytest.raises(error, match=what):
            open_examples("csv" if "csv" in name else "table", write(tmp_path / name, content))
