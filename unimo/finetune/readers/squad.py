"""SQuAD v1.1 (Rajpurkar et al., EMNLP 2016), read for asking questions or for answering them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from unimo.corpus.finding import did_you_mean
from unimo.errors import DataError, UsageError
from unimo.finetune.example import Dropped, Example, Found
from unimo.finetune.readers.raw import read_json
from unimo.finetune.readers.shape import listed, part, words


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
    for where, title, passage, asked in _questions(path):
        if isinstance(passage, DataError):
            yield passage
            continue
        try:
            question = words(asked, "question", where)
            answers = listed(asked, "answers", where) if asked.get("answers") else []
            if not answers and asked.get("is_impossible"):
                yield Dropped("question without an answer (SQuAD v2)")
                continue
            if not answers and write == "answer" and "answers" not in asked:
                texts, target, extra = (passage, question), None, {}  # a test split
            else:
                if not answers:
                    raise DataError("question without an answer", where=where, do="add one or remove the question")
                given = tuple(words(each, "text", f"{where}.answers[{i}]") for i, each in enumerate(answers))
                start = part(answers[0], "answer_start", int, where) if "answer_start" in answers[0] else None
                texts, target = (
                    ((passage, given[0]), question) if write == "question" else ((passage, question), given[0])
                )
                extra = {} if start is None else {"answer_start": start}
                if write == "answer":
                    extra["references"] = given
            if title:
                extra["group"] = title
            joined = texts if separator is None else (f" {separator} ".join(texts),)
            yield Example(words(asked, "id", where), joined, None, target, extra)
        except DataError as error:
            yield error


def _questions(path: Path) -> Iterator[tuple[str, str, str | DataError, dict[str, Any]]]:
    """(place, title, passage or what is wrong with it, question) of each question."""
    for i, article in enumerate(listed(read_json(path), "data", path.name)):
        where = f"{path.name}, data[{i}]"
        try:
            paragraphs = listed(article, "paragraphs", where)
        except DataError as error:
            yield where, "", error, {}
            continue
        title = article.get("title")
        for j, paragraph in enumerate(paragraphs):
            place = f"{where}.paragraphs[{j}]"
            try:
                passage, asked = words(paragraph, "context", place), listed(paragraph, "qas", place)
            except DataError as error:
                yield place, "", error, {}
                continue
            for k, each in enumerate(asked):
                question = each if isinstance(each, dict) else {}  # which then lacks a question: named as such
                yield f"{place}.qas[{k}]", title if isinstance(title, str) else "", passage, question
