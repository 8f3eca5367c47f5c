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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unimo.benchmark.plan import Entry, Plan
from unimo.corpus.corpus import open_corpus
from unimo.disk import write_atomic
from unimo.errors import DataError
from unimo.evaluation.zero_shot.context import references
from unimo.json_files import parse_json
from unimo.tokenizer import Tokenizer

DEV_SHARE, DEV_MOST = 20, 128  # one image in so many, and no more than so many, choose the weights
Row = dict[str, Any]
ABILITIES = {
    "tasks": ["retrieval", "masked_words", "captioning"],
    "captions": 1,
    "shortlist": 8,
    "captioned": 128,
    "masked": 256,
    "baseline": 0,
}


def scenes_plan(world: str | Path, out: str | Path, *, regions: Iterable[str] = ()) -> Plan:
    """Writes the rows of the tasks into folder `out` and returns the plan of them. world: the world's folder.

    regions: where UNIMO's regions of the world are. DataError: the world has no held-out scenes, or no questions.
    """
    world, out, seen = Path(world), Path(out), tuple(regions)
    told = {split: _told(world, name) for split, name in (("train", "pairs"), ("heldout", "heldout"))}
    for split in told:
        _add(told[split], "questions", world / "qa" / f"{split}.jsonl")
        _add(told[split], "sentences", world / "entailment" / f"{split}.jsonl")
    train = list(told["train"].values())
    aside = min(DEV_MOST, max(1, len(train) // DEV_SHARE))
    splits = {"train": train[:-aside], "dev": train[-aside:], "test": list(told["heldout"].values())}
    makers = {
        "captions": _captions,
        "pairs": _pairs,
        "vqa": _questions,
        "entailment": _sentences,
        "texts": _texts,
        "asking": _asking,
    }
    for split, scenes in splits.items():
        for name, maker in makers.items():
            lines = [json.dumps(row) for number, scene in enumerate(scenes) for row in maker(scene, number, split)]
            write_atomic(out / f"{name}-{split}.jsonl", ("\n".join(lines) + "\n").encode())

    def rows(name: str) -> dict[str, Any]:
        return {split: (str(out / f"{name}-{split}.jsonl"),) for split in splits}

    shown: dict[str, Any] = {"images": (str(world / "pairs"), str(world / "heldout")), "regions": seen}
    entries = (
        Entry(
            "classification",
            "understanding, single-modal",
            "text entailment",
            **rows("texts"),
            set=("read.sees=false",),
            about="does a sentence follow from the captions of a scene, contradict them, or neither? No image",
        ),
        Entry(
            "generation",
            "generation, single-modal",
            "question generation",
            **rows("asking"),
            set=("write.sees=false", "write.num_beams=1", "write.max_length=32", "metrics=bleu,rouge_l"),
            about="captions of a scene and an answer are read, a question with that answer is written",
        ),
        Entry(
            "scenes_vqa", "understanding, cross-modal", "vqa", **rows("vqa"), **shown, time_weight=4.0,
            about="questions about held-out scenes",
        ),
        Entry(
            "scenes_entailment", "understanding, cross-modal", "entailment", **rows("entailment"), **shown,
            time_weight=1.5, about="a sentence about a held-out scene: true, false, or not to be told from it",
        ),
        Entry(
            "retrieval", "understanding, cross-modal", "retrieval", **rows("pairs"), **shown,
            set=("rank.shortlist=16", "dev_limit=64"),
            time_weight=0.5,
            about="which caption belongs to a held-out scene, and which scene to a caption, among all of them",
        ),
        Entry(
            "captions", "generation, cross-modal", "captions", **rows("captions"), **shown,
            set=("write.num_beams=1",), about="a sentence about a held-out scene",
        ),
    )  # fmt: skip
    return Plan(entries, {**ABILITIES, "pairs": [str(world / "heldout")], "regions": list(seen)})


def _told(world: Path, name: str) -> dict[str, Row]:
    """Key of an image -> {key, captions}."""
    if not (world / name).is_dir():
        do = "make a world with pairs and held-out scenes (unimo.synthetic.dataset.write_world)"
        raise DataError(f"this world has no {name}", where=world, expected=f"a folder {name}", do=do)
    corpus = open_corpus("pairs", [str(world / name)], tokenizer=Tokenizer.default())
    scenes = ((str(corpus.meta(i)["key"]), references(corpus, i)) for i in range(len(corpus)))
    return {key: {"key": key, "captions": captions, "questions": [], "sentences": []} for key, captions in scenes}


def _add(scenes: dict[str, Row], part: str, path: Path) -> None:
    """The rows of one file of the world, each to its scene."""
    if not path.is_file():
        raise DataError("this world lacks a file", where=path, expected=f"the {part} of its scenes")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            row = parse_json(line, where=f"{path}, line {number}")
            if row.get("image") not in scenes:
                raise DataError("a row about an unknown scene", where=f"{path}, line {number}", got=row.get("image"))
            scenes[row["image"]][part].append(row)


# ---- rows of a scene. Number: its place in its split, by which one of its questions is chosen


def _captions(scene: Row, number: int, split: str) -> Iterator[Row]:
    yield {"key": scene["key"], "image": scene["key"], "captions": scene["captions"]}


def _pairs(scene: Row, number: int, split: str) -> Iterator[Row]:
    """All captions to learn from; to be found, one of each scene, as the abilities ask it."""
    captions = scene["captions"] if split == "train" else scene["captions"][:1]
    yield {"key": scene["key"], "image": scene["key"], "captions": captions}


def _questions(scene: Row, number: int, split: str) -> Iterator[Row]:
    yield from scene["questions"]


def _sentences(scene: Row, number: int, split: str) -> Iterator[Row]:
    yield from scene["sentences"]


def _texts(scene: Row, number: int, split: str) -> Iterator[Row]:
    for i, row in enumerate(scene["sentences"]):
        said = {"text": "; ".join(scene["captions"]), "text2": row["sentence"], "label": row["label"]}
        yield {"id": f"{scene['key']}/{i}", **said, "group": scene["key"]}


def _asking(scene: Row, number: int, split: str) -> Iterator[Row]:
    """An answer with all questions that have it; of a scene not learnt from only one, for each is written alone."""
    by_answer = defaultdict(list)
    for row in scene["questions"]:
        by_answer[row["answer"]].append(row["question"])
    answers = list(by_answer) if split == "train" else list(by_answer)[number % len(by_answer) :][:1]
    for answer in answers:
        said = {"text": "; ".join(scene["captions"]), "text2": answer, "target": by_answer[answer]}
        yield {"id": f"{scene['key']}/{answer}", **said, "group": scene["key"]}


__all__ = ["scenes_plan"]
