"""What a pre-training run is made of: every setting, and which of them contradict each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unimo import objectives
from unimo.config import setting
from unimo.data.augment import Views
from unimo.data.finding import Kind
from unimo.data.loader import Budgets
from unimo.errors import UsageError
from unimo.model.build import ModelSettings
from unimo.objectives import (
    CrossModalContrastive,
    GroundedDictionaryLoss,
    ImageContrastive,
    ImageTextMatching,
    MaskedGrounding,
    MaskedLanguageModeling,
    MaskedRegionModeling,
    Objective,
    RewritingContrastive,
    Seq2SeqGeneration,
)
from unimo.optimiser import Optimiser


@dataclass(frozen=True)
class Data:
    texts: tuple[str, ...] = setting((), "folders, globs or files of texts without pictures")
    images: tuple[str, ...] = setting((), "folders, globs or files of pictures without texts")
    pairs: tuple[str, ...] = setting((), "folders, globs or files of pictures with captions")
    regions: tuple[str, ...] = setting((), "detected regions (unimo prepare regions), if not beside the shards (UNIMO)")
    rewrites: str | None = setting(
        None, "folder of rewritten captions (unimo prepare rewrites); beside: beside the shards"
    )
    neighbours: str | None = setting(None, "folder of related pictures and sentences (unimo prepare neighbours)")
    max_bad_share: float = setting(0.01, "share of bad samples beyond which a run stops and says why")
    index_dir: str | None = setting(None, "where shard indexes go when they should not lie beside the shards")
    verify: Literal["decode", "header"] = setting(
        "decode", "decode every picture once while indexing, or read only its header"
    )
    cache_gb: float = setting(2.0, "memory for decoded pictures, per loader process")
    pair_views: Views = setting(Views(), "how pictures of pairs are varied")
    image_views: Views = setting(
        Views(crop=0.3, flip=0.5, jitter=0.4, grey=0.2), "how the two views of a picture differ"
    )


@dataclass(frozen=True)
class Objectives:
    mlm: MaskedLanguageModeling = setting(MaskedLanguageModeling(), "masked words")
    seq2seq: Seq2SeqGeneration = setting(Seq2SeqGeneration(), "written captions and fragments")
    cmcl: CrossModalContrastive = setting(CrossModalContrastive(), "pictures and captions that find each other")
    itm: ImageTextMatching = setting(ImageTextMatching(), "does the caption belong to the picture")
    image_contrastive: ImageContrastive = setting(ImageContrastive(), "two views of a picture that find each other")
    dictionary: GroundedDictionaryLoss = setting(GroundedDictionaryLoss(), "entries and their voters move together")
    masked_grounding: MaskedGrounding = setting(MaskedGrounding(), "masked grounded tokens")
    mrm: MaskedRegionModeling = setting(MaskedRegionModeling(weight=0.0), "masked regions (UNIMO)")
    rewriting: RewritingContrastive = setting(RewritingContrastive(weight=0.0), "captions and their rewritings")

    def active(self) -> dict[str, Objective]:
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: objective for name, objective in named.items() if objective.weight}


@dataclass(frozen=True)
class Run:
    """Everything a run is made of; saved with it as settings.json and accepted back as a recipe."""

    model: ModelSettings = setting(ModelSettings(), "the model")
    start: str | None = setting(None, "weights to start from: a run, a saved folder, or a name on the hub")
    data: Data = setting(Data(), "where the data is and how it is read")
    batch: Budgets = setting(Budgets(), "what one step holds")
    objectives: Objectives = setting(Objectives(), "what is asked, and how much it counts")
    optimiser: Optimiser = setting(Optimiser(), "how the weights move")
    steps: int | None = setting(None, "length of the run in steps (exactly resumable)")
    minutes: float | None = setting(None, "length of the run in minutes; used when steps is none")
    seed: int = setting(0, "all chance of the run")
    precision: Literal["auto", "bf16", "fp32"] = setting("auto", "auto, bf16 or fp32")
    workers: int = setting(1, "loader processes; 0 loads in the training process")
    save_steps: int | None = setting(None, "steps between checkpoints")
    save_minutes: float = setting(10.0, "minutes between checkpoints when save_steps is none")
    keep: int = setting(2, "checkpoints kept")
    average: float = setting(0.0, "decay of a running average of the weights, used for answering; 0 keeps none")
    only_known_words: bool = setting(
        False, "predict only words the training texts hold: the same softmax over fewer columns"
    )
    recompute: bool = setting(False, "recompute activations in the backward pass to save memory")
    tensorboard: bool = setting(True, "write TensorBoard curves when the package is installed")


# Objectives that only one member can be asked.
ONLY_UNIMO2 = {"cmcl", "image_contrastive", "dictionary", "masked_grounding"}
ONLY_UNIMO = {"mrm"}

MAY_CHANGE = (
    "workers",
    "save_*",
    "keep",
    "minutes",
    "tensorboard",
    "data.cache_gb",
    "data.index_dir",
    "data.verify",
)


def wanted(run: Run) -> list[Kind]:
    """The kinds of data that are given and have a budget."""
    budgets: dict[Kind, int] = {
        "texts": run.batch.text_tokens,
        "images": run.batch.images,
        "pairs": run.batch.pairs,
    }
    return [kind for kind, budget in budgets.items() if budget and getattr(run.data, kind)]


def check(run: Run, world: int) -> None:
    """Settings that contradict each other, before anything is opened."""
    if (run.steps is None) == (run.minutes is None) or (run.steps or run.minutes or 0) <= 0:
        raise UsageError(
            "how long should the run be?",
            where="steps, minutes",
            got=f"steps={run.steps}, minutes={run.minutes}",
            expected="exactly one of them, above 0",
            do="--minutes 5, or --set steps=1000",
        )
    asked = run.objectives
    if run.steps is None and (asked.mlm.alone_until or asked.rewriting.begins):
        raise UsageError(
            "objectives that have their turn in a part of a run need one of known length",
            where="objectives.mlm.alone_until, objectives.rewriting.begins",
            got=f"minutes={run.minutes}",
            expected="a number of steps",
            do="--steps 1000, or --set objectives.mlm.alone_until=0 --set objectives.rewriting.begins=0",
        )
    of_graphs = {
        "objectives.mlm.nodes": asked.mlm.nodes,
        "objectives.mlm.relations": asked.mlm.relations,
        "objectives.mlm.alone_until": asked.mlm.alone_until,
        "objectives.rewriting.relations": asked.rewriting.relations,
    }
    if run.data.rewrites is None and any(of_graphs.values()):
        raise UsageError(
            "the scene graph of a caption is known from rewritten captions",
            where=", ".join(name for name, value in of_graphs.items() if value),
            got="data.rewrites=none",
            expected="rewritten captions (unimo prepare rewrites)",
            do="--set data.rewrites=FOLDER, or "
            + " ".join(f"--set {name}=0" for name, value in of_graphs.items() if value),
        )
    longest = run.model.positions - 2
    for key, value, lowest, highest in (
        ("batch.caption_length", run.batch.caption_length, 3, longest),
        ("batch.passage_length", run.batch.passage_length, 3, longest),
        ("batch.pairs", run.batch.pairs, 0, None),
        ("batch.images", run.batch.images, 0, None),
        ("batch.text_tokens", run.batch.text_tokens, 0, None),
        ("batch.fragments", run.batch.fragments, 0, 1),
        ("batch.shards", run.batch.shards, 1, None),
        ("objectives.mlm.nodes", asked.mlm.nodes, 0, 1),
        ("objectives.mlm.node_ratio", asked.mlm.node_ratio, 0, 1),
        ("objectives.mlm.relations", asked.mlm.relations, 0, 1),
        ("objectives.mlm.relations_from", asked.mlm.relations_from, 0, 1),
        ("objectives.mlm.alone_until", asked.mlm.alone_until, 0, 1),
        ("objectives.rewriting.begins", asked.rewriting.begins, 0, 1),
        ("objectives.rewriting.relations", asked.rewriting.relations, 0, 1),
        ("optimiser.hold", run.optimiser.hold, 0, 1),
        ("optimiser.warmup", run.optimiser.warmup, 1e-6 if run.optimiser.decay == "noam" else 0, 1),
        ("average", run.average, 0, 0.999999),
        ("save_steps", run.save_steps or 1, 1, None),
        ("keep", run.keep, 2, None),
        ("model.chosen", run.model.chosen if run.model.dictionary else 1, 1, run.model.dictionary or 1),
        ("workers", run.workers, 0, None),
    ):
        if value < lowest or (highest is not None and value > highest):
            raise UsageError(
                "a setting is out of range",
                where=key,
                got=value,
                expected=f"at least {lowest}" if highest is None else f"{lowest} to {highest}",
                do="raise model.positions for longer texts" if highest == longest and value > longest else None,
            )
    if run.batch.shards % world:
        raise UsageError(
            "the shards of a step cannot be shared equally among the processes",
            where="batch.shards",
            got=run.batch.shards,
            expected=f"a multiple of {world}",
            do=f"--set batch.shards={world}",
        )
    if not wanted(run):
        raise UsageError(
            "no data",
            where="data.texts, data.images, data.pairs",
            expected="at least one folder, with a budget above 0",
            do="--pairs FOLDER --images FOLDER --texts FOLDER",
        )
    active = run.objectives.active()
    if not active:
        raise UsageError("no objective", where="objectives", expected="at least one weight above 0")
    others = ONLY_UNIMO2 if run.model.member == "unimo" else ONLY_UNIMO
    if foreign := sorted(set(active) & others):
        raise UsageError(
            f"an objective that {run.model.member} does not have",
            where="objectives",
            got=", ".join(foreign),
            expected=", ".join(sorted(set(objectives.OBJECTIVES) - others)),
            do=" ".join(f"--set objectives.{name}.weight=0" for name in foreign),
        )
    if "itm" in active and run.model.member == "unimo" and run.objectives.itm.hard:
        raise UsageError(
            "UNIMO has no embeddings before fusion by which to draw hard negatives",
            where="objectives.itm.hard",
            do="--set objectives.itm.hard=false",
        )
    for name in ("masked_grounding", "image_contrastive"):
        if name in active and not getattr(run.model, name):
            raise UsageError(
                "an objective needs a part of the model that is switched off",
                where=f"objectives.{name}, model.{name}",
                got=f"weight {active[name].weight}, model.{name}=false",
                expected="both on or both off",
                do=f"--set model.{name}=true, or --set objectives.{name}.weight=0",
            )
