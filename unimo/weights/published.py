"""Published models by name: where their archives lie, fetched once into the cache as folders that `unimo.load` opens.

~/.cache/unimo, or $UNIMO_CACHE
  models/NAME/       converted, with tokenizer and model card
  downloads/         archives on their way
  digests.json       size and SHA-256 of every archive that was fetched; another one of the same name is refused
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimo.disk import locked
from unimo.errors import UsageError, WeightsError, did_you_mean
from unimo.file_access import hash_file
from unimo.json_files import load_json, write_json
from unimo.weights.archives import Progress, fetch, unpacked
from unimo.weights.convert import convert_published, save_converted

DIGESTS = "digests.json"
LICENCE = "Apache-2.0 in the headers of the authors' code; nothing is said of the weights"


@dataclass(frozen=True)
class Published:
    """An archive of the authors (spec unimo §9.1, unimo2 §8.4)."""

    address: str
    what: str
    paper: str = "https://aclanthology.org/2021.acl-long.202"
    licence: str = LICENCE


_UNIMO, _UNIMO2 = "https://unimo.bj.bcebos.com/model", "https://unimo-2.bj.bcebos.com/model"
PUBLISHED = {
    "unimo-2-base": Published(
        f"{_UNIMO2}/UNIMO-2.tar.gz", "UNIMO-2, base, pre-trained", "https://aclanthology.org/2022.findings-acl.251"
    ),
    "unimo-base": Published(f"{_UNIMO}/unimo_base_en.tar.gz", "UNIMO, base, pre-trained"),
    "unimo-large": Published(f"{_UNIMO}/unimo_large_en.tar.gz", "UNIMO, large, pre-trained"),
    "unimo-mnli-base": Published(f"{_UNIMO}/unimo_mnli_base_en.tar.gz", "UNIMO, base, fine-tuned on MNLI"),
    "unimo-mnli-large": Published(f"{_UNIMO}/unimo_mnli_large_en.tar.gz", "UNIMO, large, fine-tuned on MNLI"),
}


def cache_folder() -> Path:
    """Where downloaded models lie."""
    return Path(os.environ.get("UNIMO_CACHE") or "~/.cache/unimo").expanduser()


def cached(name: str) -> Path:
    """The folder of a downloaded model. WeightsError, with the command, where it was not downloaded yet."""
    folder = cache_folder() / "models" / name
    if not folder.is_dir():
        what = "this published model is not on this machine"
        raise WeightsError(what, where=name, got=f"no {folder}", do=f"unimo download {name}")
    return folder


def download(
    name: str,
    *,
    sha256: str | None = None,
    keep_archive: bool = False,
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = print,
) -> Path:
    """Fetches, checks and converts a published model into the cache; returns its folder.

    sha256: that the archive must have; None: the one it had when it was first fetched here. Raises what `fetch`,
    `unpack` and `convert_published` raise, and WeightsError for an archive of another digest.
    """
    if name not in PUBLISHED:
        do = did_you_mean(name, PUBLISHED) or "unimo download, without a name, lists them"
        raise UsageError("no published model of this name", got=name, expected=", ".join(PUBLISHED), do=do)
    published, cache = PUBLISHED[name], cache_folder()
    folder = cache / "models" / name
    cache.mkdir(parents=True, exist_ok=True)
    if folder.is_dir():
        say(f"{folder} is there already")
        return folder
    with locked(cache / ".lock"):
        archive = cache / "downloads" / published.address.rpartition("/")[2]
        if not archive.is_file():
            fetch(published.address, archive, progress=progress)
        digest = _checked(cache, name, archive, sha256)
        say(f"{archive.name}: {digest['bytes']:,} bytes, sha256 {digest['sha256']}")
        facts = {"source": published.address, "paper": published.paper, "licence": published.licence, "archive": digest}
        with unpacked(archive, cache) as source:
            converted = convert_published(source)
            say("\n".join(converted.table()))
            save_converted(converted, archive.name, folder, facts=facts)
        if not keep_archive:
            archive.unlink()
    return folder


def _checked(cache: Path, name: str, archive: Path, sha256: str | None) -> dict[str, Any]:
    """Size and digest of an archive, remembered; WeightsError where they are not those that were wanted."""
    known = load_json(cache / DIGESTS, error=WeightsError) if (cache / DIGESTS).is_file() else {}
    found = {"bytes": archive.stat().st_size, "sha256": hash_file(archive)}
    expected = str(sha256 or known.get(name, found)["sha256"]).lower()
    if found["sha256"] != expected:
        what, do = "the archive is not the one that was expected", "remove the file and download it again"
        raise WeightsError(what, where=archive, got=f"sha256 {found['sha256']}", expected=f"sha256 {expected}", do=do)
    write_json(cache / DIGESTS, {**known, name: found})
    return found
