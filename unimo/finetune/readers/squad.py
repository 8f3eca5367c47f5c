"""SQuAD v1.1 (Rajpurkar et al., EMNLP 2016), read for asking questions or for answering them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from unimo.errors import DataError, UsageError, did_you_mean
from unimo.finetune.example import Dropped, Example, Found
from unimo.formats.json_values import each_of, listed, part, read_json, words


def read_squad(path: Path, *, write: Literal["question", "answer"] = "question", separator: str | None = None) -> Found:
    """One example per question; XQuAD and MLQA are files of this layout too.

    write: "question": texts are passage and answer, target is the question (answer-aware generation of questions).
    "answer": texts are passage and question, target is the answer. separator: joins both texts to one, as the released
    files do with a literal [SEP] (spec unimo 6.4); by default they stay two segments, between which a task can put the
    real one, which no text can spell. In extra: answer_start in characters, the title as `group`, all answers of
    people as `references` when answers are written. Of several answers the first is read.
    """
    if write not in ("question", "answer"):
        do = did_you_mean(write, ("question", "answer"))
        raise UsageError("unknown target", where="write", got=write, expected="question or answer", do=do)
    for i, article in enumerate(listed(read_json(path), "data", path.name)):
        where = f"{path.name}, data[{i}]"
        try:
            paragraphs = listed(article, "paragraphs", where)
        except DataError as error:
            yield error
            continue
        title = article.get("title") if isinstance(article.get("title"), str) else None
        for j, paragraph in enumerate(paragraphs):
            yield from _paragraph(paragraph, f"{where}.paragraphs[{j}]", title, write == "question", separator)


def _paragraph(paragraph: Any, where: str, title: str | None, asking: bool, separator: str | None) -> Found:
    try:
        passage, questions = words(paragraph, "context", where), listed(paragraph, "qas", where)
    except DataError as error:
        yield error
        return

    def example(row: Any, where: str) -> Example | Dropped:
        row = row if isinstance(row, dict) else {}  # which then lacks a question: named as such
        question = words(row, "question", where)
        answers = listed(row, "answers", where) if row.get("answers") else []
        extra: dict[str, Any] = {"group": title} if title else {}
        if not answers and row.get("is_impossible"):
            return Dropped("question without an answer (SQuAD v2)")
        given = tuple(words(each, "text", f"{where}.answers[{i}]") for i, each in enumerate(answers))
        if answers and "answer_start" in answers[0]:
            extra["answer_start"] = part(answers[0], "answer_start", int, where)
        if not answers and (asking or "answers" in row):  # else of a test split
            raise DataError("question without an answer", where=where, do="add one or remove the question")
        texts, target = (
            ((passage, given[0]), question) if asking else ((passage, question), given[0] if given else None)
        )
        if given and not asking:
            extra["references"] = given
        joined = texts if separator is None else (f" {separator} ".join(texts),)
        return Example(words(row, "id", where), joined, None, target, extra)

    yield from each_of(questions, f"{where}.qas", example)
