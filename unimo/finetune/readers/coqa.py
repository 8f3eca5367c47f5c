"""CoQA (Reddy et al., TACL 2019): stories, and conversations about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unimo.errors import DataError
from unimo.finetune.example import Example, Found
from unimo.formats.json_values import listed, name_of, part, read_json, words


def read_coqa(path: Path) -> Found:
    """One example per question: texts are the story, then question and answer of every turn before, then the question.

    target: the answer, as written by the answerer of the conversation. In extra: `references`, that answer and those of
    further people (`additional_answers`); `group`, the story's id; `turn`, from 1; `source`, the domain. A conversation
    with a broken turn ends before it: later turns would lack their history.
    """
    for i, story in enumerate(listed(read_json(path), "data", path.name)):
        where = f"{path.name}, data[{i}]"
        try:
            texts = [words(story, "story", where)]
            name, questions = name_of(story, "id", where), listed(story, "questions", where)
            answers = listed(story, "answers", where) if "answers" in story else [None] * len(questions)
            if len(answers) != len(questions):
                what, got = (
                    "questions and answers do not pair up",
                    f"{len(questions)} questions, {len(answers)} answers",
                )
                raise DataError(what, where=where, got=got, expected="an answer to each question")
        except DataError as error:
            yield error
            continue
        for j, (question, answer) in enumerate(zip(questions, answers)):
            try:
                row = _turn(story, name, tuple(texts), j, question, answer, where)
            except DataError as error:
                yield error
                for k in range(j + 1, len(questions)):
                    place, got = f"{where}.questions[{k}]", f"turn {j + 1} is bad"
                    yield DataError("turn lacks its history", where=place, got=got)
                break
            yield row
            texts += [row.texts[-1]] if row.target is None else [row.texts[-1], str(row.target)]


def _turn(
    story: dict[str, Any], name: str, texts: tuple[str, ...], j: int, question: Any, answer: Any, where: str
) -> Example:
    place = f"{where}.questions[{j}]"
    turn, words_of_it = part(question, "turn_id", int, place), words(question, "input_text", place)
    extra: dict[str, Any] = {"group": name, "turn": turn}
    if isinstance(story.get("source"), str):
        extra["source"] = story["source"]
    target = None
    if answer is not None:
        target = _answer(answer, turn, f"{where}.answers[{j}]")
        extra["references"] = (target, *_further(story, j, turn, where))
    return Example(f"{name}:{turn}", (*texts, words_of_it), None, target, extra)


def _answer(answer: Any, turn: int, where: str) -> str:
    number = part(answer, "turn_id", int, where)
    if number != turn:
        raise DataError("answer to another turn", where=where, got=f"turn {number}", expected=f"turn {turn}")
    return words(answer, "input_text", where)


def _further(story: dict[str, Any], j: int, turn: int, where: str) -> list[str]:
    """What other people answered at this turn."""
    where = f"{where}.additional_answers"
    further = story.get("additional_answers") or {}
    if not isinstance(further, dict):
        raise DataError("wrong type of field", where=where, expected="an object of lists")
    found = []
    for name in sorted(further):
        place, others = f"{where}[{name}][{j}]", listed(further, name, where)
        if j >= len(others):
            raise DataError("answer is missing", where=place, got=f"{len(others)} answers", expected="one to each turn")
        found.append(_answer(others[j], turn, place))
    return found
