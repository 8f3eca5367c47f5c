"""CoQA (Reddy et al., TACL 2019): stories, and conversations about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unimo.errors import DataError
from unimo.finetune.example import Example, Found
from unimo.finetune.readers.raw import read_json
from unimo.finetune.readers.shape import listed, name_of, part, words


def read_coqa(path: Path) -> Found:
    """One example per question: texts are the story, then question and answer of every turn before, then the question.

    target: the answer, as written by the answerer of the conversation. In extra: `references`, that answer and those of
    further people (`additional_answers`); `group`, the story's id; `turn`, from 1; `source`, the domain. A conversation
    with a broken turn ends before it: later turns would lack their history.
    """
    for i, story in enumerate(listed(read_json(path), "data", path.name)):
        where = f"{path.name}, data[{i}]"
        try:
            name, passage = name_of(story, "id", where), words(story, "story", where)
            questions = listed(story, "questions", where)
            answers = listed(story, "answers", where) if "answers" in story else [None] * len(questions)
            if len(answers) != len(questions):
                raise DataError(
                    "questions and answers do not pair up",
                    where=where,
                    got=f"{len(questions)} questions, {len(answers)} answers",
                    expected="an answer to each question",
                )
        except DataError as error:
            yield error
            continue
        said: list[str] = []
        for j, (question, answer) in enumerate(zip(questions, answers)):
            place = f"{where}.questions[{j}]"
            try:
                turn = part(question, "turn_id", int, place)
                asked = words(question, "input_text", place)
                extra: dict[str, Any] = {"group": name, "turn": turn}
                if isinstance(story.get("source"), str):
                    extra["source"] = story["source"]
                target = None
                if answer is not None:
                    target = _answer(answer, turn, f"{where}.answers[{j}]")
                    extra["references"] = (target, *_further(story, j, turn, where))
                yield Example(f"{name}:{turn}", (passage, *said, asked), None, target, extra)
                said += [asked] if target is None else [asked, target]
            except DataError as error:
                yield error
                lost = len(questions) - j - 1
                for k in range(j + 1, j + 1 + lost):
                    yield DataError(
                        "turn lacks its history", where=f"{where}.questions[{k}]", got=f"turn {j + 1} is bad"
                    )
                break


def _answer(answer: Any, turn: int, where: str) -> str:
    number = part(answer, "turn_id", int, where)
    if number != turn:
        raise DataError("answer to another turn", where=where, got=f"turn {number}", expected=f"turn {turn}")
    return words(answer, "input_text", where)


def _further(story: dict[str, Any], j: int, turn: int, where: str) -> list[str]:
    """What other people answered at this turn."""
    further = story.get("additional_answers") or {}
    if not isinstance(further, dict):
        raise DataError("wrong type of field", where=f"{where}.additional_answers", expected="an object of lists")
    found = []
    for name in sorted(further):
        place = f"{where}.additional_answers[{name}][{j}]"
        others = listed(further, name, f"{where}.additional_answers")
        if j >= len(others):
            raise DataError("answer is missing", where=place, got=f"{len(others)} answers", expected="one to each turn")
        found.append(_answer(others[j], turn, place))
    return found
