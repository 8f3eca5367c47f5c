"""VQA v2 (Goyal et al., CVPR 2017): a file of questions and a file of annotations, ten answers to each question."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from unimo.errors import DataError
from unimo.finetune.example import Example, Found, Noted
from unimo.finetune.readers.columns import most_frequent, plain_answer, soft_scores
from unimo.formats.json_values import each_of, listed, name_of, part, read_json, words


def read_vqa(
    questions: Path,
    annotations: Path | None = None,
    *,
    image: str = "COCO_{subtype}_{number:012d}.jpg",
    normalise: Callable[[str], str] = plain_answer,
) -> Found:
    """Questions with soft scores of their answers, in steps of 0.3 (`soft_scores`).

    annotations: None for a test split. image: name of an image, of the `data_subtype` of the file of questions (such
    as val2014) and its number. normalise: applied to every answer before equal ones are counted. In extra: `answers`,
    all as given; `answer`, the most frequent one, normalised; and the types of question and answer.
    """
    values = read_json(questions)
    subtype = str(values.get("data_subtype", "train2014"))
    answered: dict[str, tuple[dict, str]] = {}  # question -> its annotation and where that stands
    found: set[str] = set()

    def take(annotation: Any, where: str) -> None:
        number = name_of(annotation, "question_id", where)
        if number in answered:
            raise DataError("question is annotated twice", where=where, got=number, do="remove one of the two")
        answered[number] = annotation, where

    def example(question: Any, where: str) -> Example:
        number = name_of(question, "question_id", where)
        found.add(number)
        shown = image.format(subtype=subtype, number=part(question, "image_id", int, where))
        row = Example(number, (words(question, "question", where),), shown)
        return row if annotations is None else _answered(row, answered, where, normalise)

    if annotations is None:
        yield Noted("questions without annotations: no targets")
    else:
        rows = listed(read_json(annotations), "annotations", annotations.name)
        yield from each_of(rows, f"{annotations.name}, annotations", take)
    yield from each_of(listed(values, "questions", questions.name), f"{questions.name}, questions", example)
    for number in sorted(set(answered) - found):
        what, expected = "answers without a question", f"a question of {questions.name}"
        yield DataError(what, where=answered[number][1], got=number, expected=expected)


def _answered(
    row: Example, answered: dict[str, tuple[dict, str]], where: str, normalise: Callable[[str], str]
) -> Example:
    annotation, where = answered.get(row.id, ({"answers": []}, where))
    people = enumerate(listed(annotation, "answers", where))
    given = [part(each, "answer", str, f"{where}.answers[{j}]") for j, each in people]
    answers = [answer for answer in map(normalise, given) if answer]
    if not answers:
        raise DataError("question without answers", where=where, got=row.id, do="add some or remove the question")
    types: dict[str, Any] = {
        name: annotation[name] for name in ("question_type", "answer_type") if isinstance(annotation.get(name), str)
    }
    extra = {"answers": tuple(given), "answer": most_frequent(answers), **types}
    return Example(row.id, row.texts, row.image, soft_scores(answers), extra)
