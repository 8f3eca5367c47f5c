"""Every recipe made so small that two steps of it take a moment: its own settings, on a tiny model and tiny data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tiny_task import SIZES, keys_of, quiet, write_csv, write_images, write_jsonl

from unimo.finetune.settings import Finetuning, TaskData
from unimo.model.build import ModelSettings
from unimo.recipes import RECIPES, prepare_world
from unimo.recipes.finetuning import TUNINGS
from unimo.synthetic.dataset import write_world
from unimo.train.settings import Data, Run

ROWS = 20


class TinyRecipes:
    """Data written once into `folder`; `run` gives a recipe that is ready to be trained on it."""

    def __init__(self, folder: Path):
        self.world = folder / "world"
        write_world(self.world, pairs=24, images=12, texts=20, heldout=2, compositional=2, classes=2, size=32)
        self.prepared = prepare_world(self.world, quiet)
        self.images = folder / "images"
        colours = write_images(self.images, ROWS, regions=True)
        self.paths = {kind: self._rows(folder, kind, colours) for kind in ("texts", "images", "both", "answers")}

    def _rows(self, folder: Path, kind: str, colours: list[str]) -> dict[str, tuple[str, ...]]:
        """A table that any kind of task finds its targets in."""
        rows = []
        for i, (key, colour) in enumerate(zip(keys_of(self.images), colours)):
            text = {"text": f"a {colour} film, number {i}"} if kind != "images" else {}
            image = {"image": key} if kind != "texts" else {}
            if kind == "answers":
                rows.append({"id": str(i), **text, **image, "answers": {str(i % 2): 1.0}})
            else:
                rows.append({"id": str(i), **text, **image, "label": str(i % 2), "score": i / 4, "target": colour})
        write, end = (write_jsonl, "jsonl") if kind == "answers" else (write_csv, "csv")
        some = {"train": rows, "dev": rows[:2]}
        return {name: (write(folder / f"{kind}-{name}.{end}", part),) for name, part in some.items()}

    def run(self, name: str, member: str = "unimo-2") -> Run | Finetuning:
        """member: of fine-tuning recipes; each pre-training recipe has its own."""
        return self._pretraining(RECIPES[name]()) if name in RECIPES else self._tuning(TUNINGS[name], member)

    def _pretraining(self, run: Run) -> Run:
        paths = {kind: (str(self.world / kind),) for kind in ("texts", "images", "pairs")}
        prepared = {} if run.model.member == "unimo-2" else self.prepared
        sizes = {name: value for name, value in SIZES.items() if not name.startswith("region_")}
        if run.model.member == "unimo":
            sizes["region_classes"], sizes["region_size"] = 64, 192
        return replace(
            run,
            model=replace(run.model, size="tiny", **{**sizes, "image_size": 32, "width": 16}),
            data=Data(**paths, **prepared, pair_views=run.data.pair_views, image_views=run.data.image_views),
            batch=replace(run.batch, pairs=4, images=2, text_tokens=64, caption_length=24, passage_length=32),
            steps=2, minutes=None, workers=0, precision="fp32", log="none",
        )  # fmt: skip

    def _tuning(self, run: Finetuning, member: str) -> Finetuning:
        sees = run.kind == "retrieval" or run.read.sees or run.write.sees or run.task == "captions"
        kind = "texts" if not sees else "images" if run.read.reads == "image" or run.task == "captions" else "both"
        kind = "answers" if run.read.soft else kind
        paths = self.paths[kind]
        images = (str(self.images),) if kind != "texts" else ()
        columns = {"generation": "target=target", "retrieval": "target=text"}.get(run.kind)
        model = ModelSettings("tiny", member=member, **SIZES)
        if run.adversarial is not None:
            run = replace(run, adversarial=replace(run.adversarial, sides=("text",)))
        small = replace(
            run,
            model=model,
            data=TaskData(**paths, images=images, columns=(columns,) if columns else (), views=run.data.views),
            write=replace(run.write, dialogue=False, max_length=min(run.write.max_length, 8), min_length=0),
            batch_size=4, steps=2, minutes=None, workers=0, precision="fp32", log="none",
        )  # fmt: skip
        return replace(small, read=replace(small.read, hidden=min(small.read.hidden, 8)))
