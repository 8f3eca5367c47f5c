"""What a pre-training run is made of: every setting, and which of them contradict each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from unimo import objectives
from unimo.config import Contradiction, check_settings, setting
from unimo.corpus.finding import Kind
from unimo.data.augment import Views
from unimo.data.loader import Budgets
from unimo.errors import UsageError
from unimo.model.build import ModelSettings
from unimo.objectives import Objectives
from unimo.tokenizer import Tokenizer
from unimo.train.job import LoopSettings

VAL_FRACTION = 0.05  # of the user's pairs and texts, held out by every recipe but those of the generated world


@dataclass(frozen=True)
class Data:
    texts: tuple[str, ...] = setting((), "folders, globs or files of texts without images", filled=True)
    images: tuple[str, ...] = setting((), "folders, globs or files of images without texts", filled=True)
    pairs: tuple[str, ...] = setting((), "folders, globs or files of images with captions", filled=True)
    columns: tuple[str, ...] = setting(
        (), "part=column of tables with other names than the usual: caption=title, image=..., text=..., split=val"
    )
    val_pairs: tuple[str, ...] = setting(
        (), "images with captions to validate on: folders, globs or files", filled=True
    )
    val_texts: tuple[str, ...] = setting((), "texts to validate on: folders, globs or files", filled=True)
    val_images: tuple[str, ...] = setting((), "images with class names, scored when the run ends", filled=True)
    val_fraction: float = setting(
        0.0,
        "fraction of the pairs and of the texts held out for validation, where none are named; 0 holds out nothing",
        at_least=0,
        at_most=0.5,
    )
    val_limit: int = setting(1000, "pairs, and texts, held out at most", at_least=0)
    regions: tuple[str, ...] = setting(
        (), "detected regions (unimo prepare regions), if not beside the shards (UNIMO)", filled=True
    )
    rewrites: str | None = setting(
        None, "folder of rewritten captions (unimo prepare rewrites); beside: beside the shards", filled=True
    )
    neighbours: str | None = setting(
        None, "folder of related images and sentences (unimo prepare neighbours)", filled=True
    )
    max_bad_fraction: float = setting(
        0.01, "fraction of bad samples beyond which a run stops and says why", at_least=0, at_most=1
    )
    index_dir: str | None = setting(
        None, "where shard indexes go when they should not lie beside the shards", filled=True
    )
    verify: Literal["decode", "header"] = setting(
        "decode", "decode every image once while indexing, or read only its header"
    )
    cache_gb: float = setting(2.0, "memory for decoded images, per loader process", at_least=0, at_most=1e6)
    pair_views: Views = setting(Views(), "how images of pairs are varied")
    image_views: Views = setting(
        Views(crop=0.3, flip=0.5, jitter=0.4, grey=0.2), "how the two views of an image differ"
    )


@dataclass(frozen=True)
class Run(LoopSettings):
    """Everything a run is made of; saved with it as settings.json and accepted back as a recipe."""

    model: ModelSettings = setting(ModelSettings(), "the model")
    init_from: str | None = setting(
        None, "weights to start from: a run, a saved folder, or a name on the hub", filled=True
    )
    data: Data = setting(Data(), "where the data is and how it is read")
    batch: Budgets = setting(Budgets(), "what one step holds")
    objectives: Objectives = setting(Objectives(), "losses and their weights")
    steps: int | None = setting(None, "length of the run in steps (exactly resumable)", at_least=1)
    workers: int = setting(1, "loader processes; 0 loads in the training process", at_least=0, at_most=1024)
    val_steps: int | None = setting(None, "steps between validations; none: up to ten in a run", at_least=1)
    unigram_prior: bool = setting(
        False, "words are first predicted by their frequency in the training texts, which a short run else has to learn"
    )
    restrict_vocabulary: bool = setting(
        False, "predict only words the training texts hold: the same softmax over fewer columns"
    )

    def contradictions(self) -> Iterator[Contradiction]:
        yield from self._sizes()
        active = self.objectives.active()
        if not active:
            yield Contradiction("no objective", ("objectives",), expected="at least one weight above 0")
        known = {name for name, one in objectives.OBJECTIVES.items() if self.model.member in one.members}
        if foreign := sorted(set(active) - known):
            yield Contradiction(
                f"an objective that {self.model.member} does not have",
                ("model.member", *map(_weight, foreign)),
                got=", ".join(foreign),
                expected=", ".join(sorted(known)),
                do=_off(*foreign),
            )
        if self.model.member == "unimo":
            yield from self._parts_of_unimo()
        else:
            yield from self._parts_of_unimo2()

    def _sizes(self) -> Iterator[Contradiction]:
        model, max_length = self.model, self.model.positions - 2
        for name in ("caption_length", "passage_length"):
            if getattr(self.batch, name) > max_length:
                yield Contradiction(
                    "texts longer than the model has positions",
                    (f"batch.{name}", "model.positions"),
                    got=getattr(self.batch, name),
                    expected=f"at most {max_length}, model.positions - 2",
                    do=f"--set batch.{name}={max_length}, or raise model.positions for longer texts",
                )
        if model.dictionary and model.chosen > model.dictionary:
            yield Contradiction(
                "more entries are chosen than there are",
                ("model.chosen", "model.dictionary"),
                got=f"{model.chosen} of {model.dictionary}",
                expected="at most model.dictionary",
                do=f"--set model.chosen={model.dictionary}",
            )
        if model.vocabulary < Tokenizer.vocab_size:
            what = "fewer rows of the word table than the tokenizer has words"
            expected = f"at least {Tokenizer.vocab_size}"
            yield Contradiction(what, ("model.vocabulary",), got=model.vocabulary, expected=expected)

    def _parts_of_unimo(self) -> Iterator[Contradiction]:
        model, active, chosen = self.model, self.objectives.active(), self.objectives
        if "itm" in active and chosen.itm.hard:
            what = "UNIMO has no embeddings before fusion by which to draw hard negatives"
            yield Contradiction(what, ("objectives.itm.hard", "model.member"), do="--set objectives.itm.hard=false")
        matched = [name for name in ("itm", "rewriting") if name in active]
        if chosen.rewriting.scorer == "cosine":
            matched = matched[: "itm" in active]
        if matched and not model.matching:
            what, do = "an objective needs the matching head", "--set model.matching=1"
            yield Contradiction(what, ("model.matching", *map(_weight, matched)), got=0, expected="1 or 2", do=do)
        if "itm" in active and model.matching == 1:
            what, do = "image-text matching has two classes", f"--set model.matching=2, or {_off('itm')}"
            yield Contradiction(what, ("model.matching", _weight("itm")), got=1, expected="2", do=do)
        if "rewriting" in active and chosen.rewriting.temperature is None:
            keys = ("objectives.rewriting.temperature", "objectives.rewriting.scorer", "model.member")
            what, expected = "only UNIMO-2 has a learned temperature", "a number, about 0.07 for cosines"
            yield Contradiction(what, keys, got="none", expected=expected)
        if "mrm" in active and not model.region_heads:
            what, do = "masked regions need their heads", f"--set model.region_heads=true, or {_off('mrm')}"
            yield Contradiction(what, (_weight("mrm"), "model.region_heads"), got="model.region_heads=false", do=do)

    def _parts_of_unimo2(self) -> Iterator[Contradiction]:
        model, active, grounding = self.model, self.objectives.active(), self.objectives.masked_grounding
        if "masked_grounding" in active and (model.grounding_method != "topk" or model.chosen > grounding.chosen):
            ours = ("objectives.masked_grounding.chosen", _weight("masked_grounding"))
            yield Contradiction(
                "masked grounding cannot draw for every grounded token",
                (*ours, "model.chosen", "model.grounding_method"),
                got=f"{grounding.chosen}, {model.chosen}, {model.grounding_method}",
                expected="at least model.chosen, and model.grounding_method=topk",
            )
        for name in ("masked_grounding", "image_contrastive"):
            if name in active and not getattr(model, name):
                yield Contradiction(
                    "an objective needs a part of the model that is switched off",
                    (_weight(name), f"model.{name}"),
                    got=f"weight {active[name].weight}, model.{name}=false",
                    expected="both on or both off",
                    do=f"--set model.{name}=true, or {_off(name)}",
                )


MAY_CHANGE = (
    "parallel", "workers", "save_*", "keep", "minutes", "log", "data.cache_gb", "data.index_dir", "data.verify",
)  # fmt: skip


def _weight(name: str) -> str:
    return f"objectives.{name}.weight"


def _off(*names: str) -> str:
    """Options that switch objectives off."""
    return " ".join(f"--set {_weight(name)}=0" for name in names)


def wanted(run: Run) -> list[Kind]:
    """The kinds of data that are given and have a budget."""
    budgets: dict[Kind, int] = {
        "texts": run.batch.text_tokens,
        "images": run.batch.images,
        "pairs": run.batch.pairs,
    }
    return [kind for kind, budget in budgets.items() if budget and getattr(run.data, kind)]


def needing_rewrites(run: Run) -> list[str]:
    """Settings that are on and mean nothing without rewritten captions; each is off at 0."""
    chosen = run.objectives
    values = {
        "objectives.cmcl.negatives": chosen.cmcl.negatives,
        "objectives.mlm.nodes": chosen.mlm.nodes,
        "objectives.mlm.relations": chosen.mlm.relations,
        "objectives.mlm.alone_until": chosen.mlm.alone_until,
        "objectives.rewriting.relations": chosen.rewriting.relations,
    }
    return [name for name, value in values.items() if value]


def check(run: Run, world: int) -> None:
    """Settings that cannot be, or with which no run can start on `world` processes: before anything is opened."""
    check_settings(run, cls=Run)
    chosen = run.objectives
    if (run.steps is None) == (run.minutes is None):
        raise UsageError(
            "how long should the run be?",
            where="steps, minutes",
            got=f"steps={run.steps}, minutes={run.minutes}",
            expected="exactly one of them",
            do="--minutes 5, or --set steps=1000",
        )
    if run.steps is None and (chosen.mlm.alone_until or chosen.rewriting.begins):
        raise UsageError(
            "objectives that have their turn in a part of a run need one of known length",
            where="objectives.mlm.alone_until, objectives.rewriting.begins",
            got=f"minutes={run.minutes}",
            expected="a number of steps",
            do="--steps 1000, or --set objectives.mlm.alone_until=0 --set objectives.rewriting.begins=0",
        )
    if run.data.rewrites is None and (needed := needing_rewrites(run)):
        raise UsageError(
            "scene graphs and false captions are known from rewritten captions",
            where=", ".join(needed),
            got="data.rewrites=none",
            expected="rewritten captions (unimo prepare rewrites)",
            do="--set data.rewrites=FOLDER, or " + " ".join(f"--set {name}=0" for name in needed),
        )
    if run.batch.micro_batches % world:
        raise UsageError(
            "the micro-batches of a step cannot be shared equally among the processes",
            where="batch.micro_batches",
            got=run.batch.micro_batches,
            expected=f"a multiple of {world}",
            do=f"--set batch.micro_batches={world}",
        )
    if not wanted(run):
        raise UsageError(
            "no data",
            where="data.texts, data.images, data.pairs",
            expected="at least one folder, with a budget above 0",
            do="--pairs FOLDER --images FOLDER --texts FOLDER",
        )
    if "dictionary" in chosen.active() and run.model.dictionary and not any(_reach_dictionary(run)):
        raise UsageError(
            "the dictionary's loss has no sequence to be computed on",
            where="objectives.dictionary",
            got=f"{', '.join(wanted(run))}, and {', '.join(chosen.active())}",
            expected="images, pairs that an objective reads (mlm, seq2seq, cmcl, itm, ...), or texts for mlm",
            do=f"switch one of them on, or {_off('dictionary')}",
        )


def _reach_dictionary(run: Run) -> Iterator[bool]:
    """Of every kind of data, whether anything votes in it: captions that are read, passages that are masked."""
    chosen = run.objectives
    active = chosen.active()
    for kind in wanted(run):
        if kind == "pairs":
            some = any(name in active and getattr(chosen, name).pairs for name in ("mlm", "seq2seq"))
            yield some or any(name in active for name in ("cmcl", "itm", "masked_grounding"))
        else:
            yield kind == "images" or "mlm" in active
