"""The plan of the generated world: every group of tasks with what the world's own files hold.

    understanding, single-modal   does a sentence follow from the captions? (as MNLI asks of texts)
    generation, single-modal      captions and an answer -> a question with that answer (as SQuAD's questions)
    understanding, cross-modal    questions about images (VQA), entailment by images (SNLI-VE), retrieval both ways
    generation, cross-modal       captions

Held-out scenes are the test split. Those that choose the weights are scenes set aside from the training split: fine-
tuning never learns from them, pre-training has seen their images and captions.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unimo.benchmark.plan import Entry, Plan
from unimo.corpus.corpus import open_corpus
from unimo.disk import write_atomic
from unimo.errors import DataError
from unimo.json_files import parse_json

DEV_PART, DEV_MOST = 20, 128  # one image in so many, and no more than so many, choose the weights
SPLITS = ("train", "dev", "test")
Row = dict[str, Any]
ABILITIES = {
    "tasks": ["retrieval", "masked_words", "captioning"],
    "captions": 1,
    "shortlist": 8,
    "captioned": 128,
    "masked": 256,
    "baseline": 0,
}
TEXTS, IMAGES = "single-modal", "cross-modal"
# Recipe, group, name, file of its rows, part of the time, settings, what it is.
TASKS: tuple[tuple[str, Any, str, str, float, tuple[str, ...], str], ...] = (
    ("classification", f"understanding, {TEXTS}", "text entailment", "texts", 1.0, ("read.sees=false",),
     "does a sentence follow from the captions of a scene, contradict them, or neither? No image"),
    ("generation", f"generation, {TEXTS}", "question generation", "question_generation", 1.0,
     ("write.sees=false", "write.num_beams=1", "write.max_length=32", "metrics=bleu,rouge_l"),
     "captions of a scene and an answer are read, a question with that answer is written"),
    ("scenes_vqa", f"understanding, {IMAGES}", "vqa", "vqa", 4.0, (), "questions about held-out scenes"),
    ("scenes_entailment", f"understanding, {IMAGES}", "entailment", "entailment", 1.5, (),
     "a sentence about a held-out scene: true, false, or not to be told from it"),
    ("retrieval", f"understanding, {IMAGES}", "retrieval", "pairs", 0.5, ("rank.shortlist=16", "dev_limit=64"),
     "which caption belongs to a held-out scene, and which scene to a caption, among all of them"),
    ("captions", f"generation, {IMAGES}", "captions", "captions", 1.0, ("write.num_beams=1",),
     "a sentence about a held-out scene"),
)  # fmt: skip


def scenes_plan(world: str | Path, out: str | Path, *, regions: Iterable[str] = ()) -> Plan:
    """Writes the rows of the tasks into folder `out` and returns the plan of them. world: the world's folder.

    regions: where UNIMO's regions of the world are. DataError: the world has no held-out scenes, or no questions.
    """
    world, out, regions = Path(world), Path(out), tuple(regions)
    train, heldout = (list(_scenes(world, *names)) for names in (("pairs", "train"), ("heldout", "heldout")))
    aside = min(DEV_MOST, max(1, len(train) // DEV_PART))
    for split, scenes in zip(SPLITS, (train[:-aside], train[-aside:], heldout)):
        files: dict[str, list[str]] = defaultdict(list)
        for number, scene in enumerate(scenes):
            for name, rows in rows_of(scene, number, split == "train").items():
                files[name] += map(json.dumps, rows)
        for name, lines in files.items():
            write_atomic(out / f"{name}-{split}.jsonl", ("\n".join(lines) + "\n").encode())
    shown: dict[str, Any] = {"images": (str(world / "pairs"), str(world / "heldout")), "regions": regions}
    entries = []
    for task, group, name, file, weight, settings, about in TASKS:
        paths: dict[str, Any] = {split: (str(out / f"{file}-{split}.jsonl"),) for split in SPLITS}
        paths |= shown if group.endswith(IMAGES) else {}
        entries.append(Entry(task, group, name, **paths, set=settings, time_weight=weight, about=about))
    return Plan(tuple(entries), {**ABILITIES, "pairs": [str(world / "heldout")], "regions": list(regions)})


def _scenes(world: Path, name: str, split: str) -> Iterable[Row]:
    """{key, captions, questions, sentences} of every scene in one of the world's folders."""
    if not (world / name).is_dir():
        do = "make a world with pairs and held-out scenes (unimo.synthetic.dataset.write_world)"
        raise DataError(f"this world has no {name}", where=world, expected=f"a folder {name}", do=do)
    corpus = open_corpus("pairs", [str(world / name)])
    keys = [str(corpus.meta(i)["key"]) for i in range(len(corpus))]
    scenes: dict[str, Row] = {key: {"key": key, "captions": corpus.captions(i)} for i, key in enumerate(keys)}
    for part, folder in (("questions", "qa"), ("sentences", "entailment")):
        path = world / folder / f"{split}.jsonl"
        if not path.is_file():
            raise DataError("this world lacks a file", where=path, expected=f"the {part} of its scenes")
        for scene in scenes.values():
            scene[part] = []
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            row = parse_json(line, where=f"{path}, line {number}")
            if row.get("image") not in scenes:
                raise DataError("a row about an unknown scene", where=f"{path}, line {number}", got=row.get("image"))
            scenes[row["image"]][part].append(row)
    return scenes.values()


def rows_of(scene: Row, number: int, training: bool) -> dict[str, list[Row]]:
    """Rows of every task about one scene. number: its place in its split, which chooses one of its questions."""
    key, captions = scene["key"], scene["captions"]
    by_answer = defaultdict(list)
    for row in scene["questions"]:
        by_answer[row["answer"]].append(row["question"])
    # Of a scene not learnt from one answer, for each is written alone; and one caption, as zero-shot retrieval has it.
    answers = list(by_answer) if training else list(by_answer)[number % max(1, len(by_answer)) :][:1]
    text = {"text": "; ".join(captions), "group": key}
    questions = [{**text, "id": f"{key}/{one}", "text2": one, "target": by_answer[one]} for one in answers]
    return {
        "captions": [{"key": key, "image": key, "captions": captions}],
        "pairs": [{"key": key, "image": key, "captions": captions if training else captions[:1]}],
        "vqa": scene["questions"],
        "entailment": scene["sentences"],
        "texts": [
            {**text, "id": f"{key}/{i}", "text2": row["sentence"], "label": row["label"]}
            for i, row in enumerate(scene["sentences"])
        ],
        "question_generation": questions,
    }
