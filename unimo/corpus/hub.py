"""Data sets of the Hugging Face hub, by name: hf:NAME or hf:NAME:SPLIT, fetched once and saved to disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from unimo.errors import DataError
from unimo.extras import optional
from unimo.paths import user_path


def saved_dataset(entry: str | os.PathLike[str]) -> Path:
    """The folder of a data set, loaded by `datasets` if it is not there yet. The split is train if none is named."""
    _, name, split = [*os.fspath(entry).split(":", 2), ""][:3]
    home = user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", entry) / "unimo" / "datasets"
    place = home / f"{name}:{split or 'train'}".replace("/", "--")
    if place.is_dir():
        return place
    command = f"load_dataset('{name}', split='{split or 'train'}').save_to_disk('my/data')"
    by_hand = f'or where it can be loaded: python -c "from datasets import load_dataset; {command}"'
    hub = optional("datasets", "a data set of the hub", f'pip install "unimo[datasets]", {by_hand}', where=entry)
    partial = home / f".{place.name}.{os.getpid()}"
    try:
        hub.load_dataset(name, split=split or "train").save_to_disk(str(partial))
        partial.rename(place)
    except Exception as error:  # of the network, the hub, or the data set
        what, expected = "cannot load a data set of the hub", "hf:NAME or hf:NAME:SPLIT of a data set on the hub"
        do = f"look for a misspelt name or split and at the network; {by_hand}"
        raise DataError(what, where=entry, got=error, expected=expected, do=do) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return place
