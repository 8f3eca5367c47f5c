"""Settings of a fine-tuning run. A benchmark (`unimo.finetune.benchmarks`) is one of these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from unimo.config import Contradiction, check_settings, setting
from unimo.data.augment import Views
from unimo.errors import UsageError
from unimo.model.build import ModelSettings
from unimo.objectives.adversarial import Adversarial
from unimo.tokenizer import Tokenizer
from unimo.train.job import LoopSettings

Kind = Literal["classification", "regression", "retrieval", "generation"]


@dataclass(frozen=True)
class TaskData:
    """Where the rows and images of a task are."""

    reader: str = setting("table", "how files are read (unimo.finetune.readers); table: your own csv, tsv, jsonl")
    train: tuple[str, ...] = setting((), "files of the training split", filled=True)
    dev: tuple[str, ...] = setting((), "files of the split that decides when to stop", filled=True)
    test: tuple[str, ...] = setting((), "files of the split that is only scored; may lack labels", filled=True)
    images: tuple[str, ...] = setting((), "images that rows name: folders, globs or tars", filled=True)
    regions: tuple[str, ...] = setting((), "detected regions of these images, if not beside them (UNIMO)", filled=True)
    columns: tuple[str, ...] = setting((), "part=column of your own files: text, image, label, ...", filled=True)
    train_limit: int | None = setting(None, "training rows at most, drawn by the seed; none: all", at_least=1)
    score_limit: int | None = setting(None, "dev and test rows that are scored at most; none: all", at_least=1)
    views: Views = setting(Views(), "how images are varied in training")
    index_dir: str | None = setting(None, "where indexes of images go, if not beside them", filled=True)
    cache_gb: float = setting(1.0, "memory for decoded images, per loader process", at_least=0, at_most=1e6)


@dataclass(frozen=True)
class Reading:
    """Classification and regression: what is read, and the head that answers."""

    max_length: int = setting(512, "tokens of a text or a pair of texts, special ones included", at_least=3)
    texts: int | None = setting(None, "texts that a row must have; 1: a hypothesis alone", at_least=0)
    sees: bool | None = setting(None, "look at images; none: where rows have them")
    reads: Literal["auto", "text", "image", "both"] = setting("auto", "poolers the head reads; auto: all that there is")
    fusion: Literal["product", "sum"] = setting("product", "how both poolers are joined")
    hidden: int = setting(0, "width of a layer between poolers and answer; 0: none", at_least=0, at_most=65536)
    activation: Literal["none", "relu"] = setting("none", "what follows that layer")
    dropout: float = setting(0.1, "dropout before the last layer", at_least=0, below=1)
    soft: bool | None = setting(None, "several answers with scores (VQA): sigmoids, no softmax; none: as the rows are")
    unseen: Literal["error", "wrong"] | None = setting(None, "labels not in training; none: wrong for answers")
    answers: int | None = setting(3129, "soft: answers that can be given, the most frequent in training", at_least=1)
    least: int = setting(1, "soft: how often an answer must occur in training to be given", at_least=1)
    prior: bool = setting(False, "begin with the frequency of each label in training, not with all alike")
    positive: str | None = setting(None, "the class that F1 and Matthews look for; none: the last by name")
    fresh_pooler: bool = setting(False, "begin with random poolers of what is read, not with the pre-trained ones")
    standardise: bool = setting(False, "regression: learn a number as deviations from the training split's mean")


@dataclass(frozen=True)
class Writing:
    """Generation: what is known before, and how the answer is written."""

    sees: bool | None = setting(None, "look at images; none: where rows have them")
    reads: bool | None = setting(None, "read the rows' texts before writing; none: where rows have them")
    one_segment: bool = setting(False, "texts of a row are one segment with [SEP] between, as released; else one each")
    dialogue: bool = setting(False, "texts are a passage and turns, with tables of speakers and turns (CoQA, UNIMO)")
    max_source_length: int = setting(512, "tokens of a source segment, special ones included", at_least=3)
    max_target_length: int = setting(128, "tokens of a target, special ones included", at_least=3)
    end: Literal["mask", "sep"] = setting("mask", "the token that ends a text: mask, or sep as in captions")
    keep_end: bool = setting(False, "shorten a long target before its end, not with it (captions)")
    smoothing: float = setting(0.1, "label smoothing, uniform over the vocabulary", at_least=0, below=1)
    num_beams: int = setting(5, "decoding: hypotheses kept; 1 is greedy", at_least=1, at_most=64)
    length_penalty: float = setting(0.6, "decoding: a score is divided by length to this", at_least=-100, at_most=100)
    min_length: int = setting(0, "decoding: least tokens written", at_least=0)
    max_length: int = setting(50, "decoding: most tokens written", at_least=1, at_most=100_000)
    no_repeat_ngram_size: int = setting(0, "decoding: words in a row that may not come twice; 0: any may", at_least=0)
    restrict_vocabulary: bool = setting(False, "write only words of training targets (and of init_from)")

    def contradictions(self) -> Iterator[Contradiction]:
        if self.min_length > self.max_length:
            got = f"{self.min_length} to {self.max_length} tokens"
            yield Contradiction(
                "no text is so long", ("min_length", "max_length"), got=got, expected="min_length at most max_length"
            )


@dataclass(frozen=True)
class Ranking:
    """Retrieval: how an image and a caption are scored, and what they are told apart from."""

    loss: Literal["circle", "hard"] = setting("hard", "circle: random negatives, as released; hard: those of the batch")
    max_length: int = setting(128, "tokens of a caption, special ones included", at_least=3)
    negatives: int = setting(10, "circle: negatives of each side", at_least=1, at_most=10_000)
    margin: float = setting(0.2, "circle: the margin m", at_least=-2, at_most=2)
    scale: float = setting(1.0, "circle: the factor gamma of scores", above=0, at_most=1e6)
    cosine: float = setting(0.3, "circle: weight of the cosine in UNIMO-2's score", at_least=0, at_most=1e6)
    fresh: bool = setting(False, "UNIMO: begin with a fresh scoring layer, as released")
    matched: int = setting(16, "hard: pairs of a step that are matched, each with two negatives", at_least=1)
    shortlist: int = setting(0, "candidates by cosine that are fused; 0: every pair, as in the papers", at_least=0)


@dataclass(frozen=True)
class Finetuning(LoopSettings):
    """Everything a fine-tuning run is made of; saved with it as settings.json."""

    task: str = setting("classification", "name of the benchmark, or of its kind")
    kind: Kind = setting("classification", "type of the task")
    init_from: str | None = setting(None, "a run, checkpoint, saved folder or hub name; none: random", filled=True)
    model: ModelSettings = setting(ModelSettings(), "the model: that of `init_from`, with the task's head")
    data: TaskData = setting(TaskData(), "where the rows are")
    read: Reading = setting(Reading(), "classification and regression")
    write: Writing = setting(Writing(), "generation")
    rank: Ranking = setting(Ranking(), "retrieval")
    metrics: tuple[str, ...] = setting((), "scores (unimo.metrics); the first decides. Empty: those of the kind")
    adversarial: Adversarial | None = setting(None, "perturbed inputs in classification and generation, or none")
    batch_size: int = setting(32, "rows of a step, over all micro-batches and processes", at_least=1)
    micro_batches: int = setting(1, "equal parts of a step; a multiple of the number of processes", at_least=1)
    epochs: float | None = setting(10.0, "length of the run in epochs; used when steps and minutes are none", above=0)
    steps: int | None = setting(None, "length of the run in steps; used when minutes is none", at_least=1)
    min_steps: int = setting(0, "steps at least, however few the rows or the minutes", at_least=0)
    dev_epochs: float = setting(1.0, "epochs between two scores of the dev split", above=0)
    dev_steps: int | None = setting(None, "the same in steps, in place of dev_epochs", at_least=1)
    dev_limit: int | None = setting(None, "dev rows scored while training at most; the end takes all", at_least=1)
    patience: int = setting(0, "dev scores without a new best after which a run stops; 0: never", at_least=0)
    patience_from: float = setting(0.7, "fraction of the schedule before patience counts", at_least=0, at_most=1)

    def contradictions(self) -> Iterator[Contradiction]:
        if self.batch_size % self.micro_batches:
            yield Contradiction(
                "a step cannot be cut into equal micro-batches",
                ("batch_size", "micro_batches"),
                got=f"{self.batch_size} rows, {self.micro_batches} micro-batches",
                expected="batch_size a multiple of micro_batches",
            )
        if self.adversarial is not None and self.kind not in ("classification", "generation"):
            yield Contradiction(
                "adversarial training is for classification and generation",
                ("adversarial", "kind"),
                got=self.kind,
                do="--set adversarial=none",
            )


MAY_CHANGE = ("workers", "save_*", "keep", "minutes", "log", "data.cache_gb", "data.index_dir", "data.test")


def fit_lengths(run: Finetuning) -> Finetuning:
    """The run with its texts shortened to what the model has positions for."""
    most = run.model.positions - 2
    write = replace(
        run.write,
        max_source_length=min(run.write.max_source_length, most),
        max_target_length=min(run.write.max_target_length, most),
    )
    read = replace(run.read, max_length=min(run.read.max_length, most))
    return replace(run, read=read, write=write, rank=replace(run.rank, max_length=min(run.rank.max_length, most)))


def check(run: Finetuning, world: int) -> None:
    """Settings that cannot be, or with which no run can start on `world` processes: before anything is opened."""
    check_settings(run, cls=Finetuning)
    if run.model.vocabulary < Tokenizer.vocab_size:
        what, expected = "fewer rows of the word table than the tokenizer has words", f"at least {Tokenizer.vocab_size}"
        raise UsageError(what, where="model.vocabulary", got=run.model.vocabulary, expected=expected)
    if not (run.epochs or run.steps or run.minutes):
        raise UsageError("how long should the run be?", where="epochs, steps, minutes", do="--epochs 10")
    if not run.data.train:
        raise UsageError("nothing to learn from", where="data.train", do="--train FILE")
    if run.micro_batches % world:
        what = "the micro-batches of a step cannot be shared equally among the processes"
        expected, do = f"a multiple of {world}", f"--set micro_batches={world}"
        raise UsageError(what, where="micro_batches", got=run.micro_batches, expected=expected, do=do)
    if run.adversarial is not None and run.model.member == "unimo-2" and "image" in run.adversarial.sides:
        what, got = "only regions can be perturbed, and UNIMO-2 sees pixels", ", ".join(run.adversarial.sides)
        do = "--set adversarial.sides=text, or adversarial=none"
        raise UsageError(what, where="adversarial, adversarial.sides", got=got, do=do)
    if run.kind == "generation" and run.write.dialogue and not (run.model.dialogue or run.model.member == "unimo"):
        do = "start from UNIMO, or --set write.dialogue=false (texts are then plain segments)"
        what, got = "this model has no tables of speakers and turns", run.model.member
        raise UsageError(what, where="write.dialogue", got=got, do=do)
