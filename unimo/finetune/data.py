"""The rows of a task's splits, read as its settings say."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from unimo.corpus.bad_samples import BadSamples
from unimo.finetune.readers import READERS
from unimo.finetune.readers.columns import ANY_TARGET
from unimo.finetune.settings import Finetuning
from unimo.finetune.split import Example, Examples, open_examples
from unimo.formats.columns import columns

SPLIT_NAMES = {"train": "train", "dev": "val", "test": "test"}  # where one file holds all of them


def open_split(run: Finetuning, name: str, *, bad_samples: BadSamples, say: Callable[[str], None]) -> Examples:
    """The rows of split `name` (train, dev or test). Bad rows are counted in bad_samples, and said."""
    data = run.data
    return open_rows(run, list(getattr(data, name)), name, images=list(data.images), bad_samples=bad_samples, say=say)


def open_rows(
    run: Finetuning,
    paths: list[str],
    name: str,
    *,
    images: list[str] | None = None,
    bad_samples: BadSamples | None = None,
    say: Callable[[str], None] = print,
    tolerant: bool = False,
) -> Examples:
    """The rows of any files of a task, read as those it was trained on.

    tolerant: however many rows are bad, the others are kept, and so are rows without a target beside others with one.
    """
    data = run.data
    reader = READERS.get(data.reader)
    known = () if reader is None else reader.options
    options: dict[str, Any] = {"kind": run.kind} if "kind" in known else {}
    if "split" in known:
        options["split"] = SPLIT_NAMES.get(name, name)
    if data.columns:
        named = columns(data.columns)
        optional = {part: frozenset(names) for part, names in named.items() if tolerant and part in ANY_TARGET}
        options["fields"] = named | optional
    if tolerant and "fields" in known:  # predictions bring the other columns of their rows
        fields = options.get("fields", {})
        options["fields"] = {**fields, "extra": [*fields.get("extra", ()), "*"]}
    one: Any = paths[0] if len(paths) == 1 else paths
    examples = open_examples(
        data.reader,
        one,
        images=images or None,
        name=name,
        need_targets=name in ("train", "dev"),
        keep_unlabelled=tolerant,
        max_bad_fraction=1.0 if tolerant else 0.01,
        bad_samples=bad_samples,
        index_dir=data.index_dir,
        **options,
    )
    if examples.bad:
        where = f"; see {bad_samples.path}" if bad_samples is not None and bad_samples.path else ""
        say(f"{name}: {examples.bad} bad rows are left out{where}")
    for note, count in examples.notes.items():
        say(f"{name}: {note}" + (f" ({count})" if count > 1 else ""))
    return examples


def say_shared(splits: Mapping[str, Examples], say: Callable[[str], None]) -> None:
    """Warns, once a split, of rows that are training rows too: a score on them says nothing of new ones."""
    known = {_read(row, splits["train"]) for row in splits["train"].rows}
    for name, examples in splits.items():
        count = sum(_read(row, examples) in known for row in examples.rows) if name != "train" else 0
        if count:
            which = "all" if count == len(examples) else f"{count:,} of"
            say(f"warning: {which} {len(examples):,} rows of {name} are in training too (same texts and image)")


def _read(row: Example, examples: Examples) -> Hashable:
    """What a model is given of a row; a key names another image in another corpus."""
    corpus = examples.images.fingerprint if row.image is not None and examples.images is not None else ""
    return row.texts, row.image, corpus
