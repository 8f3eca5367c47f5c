"""Folder of a model by name: a published one in the cache, or one of the hub in the hub's cache."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from unimo.errors import WeightsError
from unimo.extras import optional
from unimo.paths import missing_hint
from unimo.weights.published import PUBLISHED, cached

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def fetch(source: str | Path, files: Iterable[str], *, revision: str | None = None) -> Path:
    """The folder of `source`, a folder or a name. files: the only ones fetched from the hub, names or patterns.

    Raises WeightsError if it is neither a folder nor a name that can be fetched now.
    """
    if Path(source).is_dir():
        return Path(source)
    if source in PUBLISHED:
        return cached(str(source))
    if isinstance(source, Path) or not _NAME.fullmatch(source):
        names = f"a folder, a published model ({', '.join(PUBLISHED)}), or a name on the hub (owner/model)"
        raise WeightsError("no such folder", where=source, expected=names, do=missing_hint(Path(source)))
    do = "pip install huggingface_hub, or give a folder"
    hub = optional("huggingface_hub", "a name on the hub", do, where=source)
    try:
        return Path(hub.snapshot_download(source, revision=revision, allow_patterns=list(files)))
    except Exception as fault:  # the library has dozens of kinds, none of them ours
        what, do = "not to be had from the hub", "check name and network, or fetch it elsewhere and give its folder"
        if (meant := missing_hint(Path(source))).startswith("did you mean"):  # a folder misspelt
            do = f"{meant} Or {do}"
        raise WeightsError(what, where=source, got=fault, expected="a folder, or a name on the hub", do=do) from fault
