"""VQA v2 (Goyal et al., CVPR 2017): a file of questions and a file of annotations, ten answers to each question."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from unimo.errors import DataError
from unimo.finetune.example import Example, Found, Noted
from unimo.finetune.readers.answers import most_frequent, plain_answer, soft_scores
from unimo.finetune.readers.raw import read_json
from unimo.finetune.readers.shape import listed, name_of, part, words


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
    answered: dict[str, tuple[dict, str]] | None = None  # question -> its annotation and where that stands
    if annotations is None:
        yield Noted("questions without annotations: no targets")
    else:
        answered = {}
        for i, each in enumerate(listed(read_json(annotations), "annotations", annotations.name)):
            where = f"{annotations.name}, annotations[{i}]"
            try:
                number = name_of(each, "question_id", where)
                if number in answered:
                    raise DataError("question is annotated twice", where=where, got=number, do="remove one of the two")
                answered[number] = (each, where)
            except DataError as error:
                yield error
    asked = set()
    for i, each in enumerate(listed(values, "questions", questions.name)):
        where = f"{questions.name}, questions[{i}]"
        try:
            number = name_of(each, "question_id", where)
            asked.add(number)
            shown = image.format(subtype=subtype, number=part(each, "image_id", int, where))
            row = Example(number, (words(each, "question", where),), shown)
            yield row if answered is None else _answered(row, answered, where, normalise)
        except DataError as error:
            yield error
    for number in sorted(set(answered or ()) - asked):
        _, where = (answered or {})[number]
        yield DataError(
            "answers without a question", where=where, got=number, expected=f"a question of {questions.name}"
        )


def _answered(
    row: Example, answered: dict[str, tuple[dict, str]], where: str, normalise: Callable[[str], str]
) -> Example:
    if row.id not in answered:
        raise DataError("question without answers", where=where, got=row.id, do="add its annotation or remove it")
    annotation, where = answered[row.id]
    people = enumerate(listed(annotation, "answers", where))
    given = [part(each, "answer", str, f"{where}.answers[{j}]") for j, each in people]
    spoken = [answer for answer in map(normalise, given) if answer]
    if not spoken:
        raise DataError("question without answers", where=where, got="no answers", do="add one or remove the question")
    types: dict[str, Any] = {
        name: annotation[name] for name in ("question_type", "answer_type") if isinstance(annotation.get(name), str)
    }
    extra = {"answers": tuple(given), "answer": most_frequent(spoken), **types}
    return Example(row.id, row.texts, row.image, soft_scores(spoken), extra)
