"""The manifest of a checkpoint, sealed against every changed bit, and the files compared with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unimo.checkpoint.layout import CHUNK, FORMAT_VERSION, MANIFEST, NAME, STATE
from unimo.errors import WeightsError, nearest
from unimo.json_files import json_bytes, parse_json

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.(safetensors|json)")
_MAX_MANIFEST = 1 << 20


def verify(path: str | Path, *, groups: Iterable[str] | None = None) -> dict[str, Any]:
    """Compares every file with the manifest's sizes and SHA-256 and returns the manifest; WeightsError names
    the file.

    groups: check the files of these groups (and the state) only.
    """
    path = Path(path)
    manifest = read_manifest(path)
    files = manifest["files"]
    if groups is not None:
        groups = list(groups)
        known = [name.removesuffix(".safetensors") for name in files if name != STATE]
        for group in groups:
            if group not in known:
                raise WeightsError(
                    "no such group in the checkpoint",
                    where=path,
                    got=group,
                    expected=nearest(group, known) or ", ".join(known),
                )
        files = {name: files[name] for name in (STATE, *(f"{group}.safetensors" for group in groups))}
    for name, entry in files.items():
        _check_file(path / name, entry["bytes"], entry["sha256"])
    return manifest


def sealed(manifest: dict[str, Any]) -> bytes:
    """The manifest with a hash over itself, so that no bit of it can change unnoticed either."""
    return json_bytes({**manifest, "seal": hashlib.sha256(json_bytes(manifest)).hexdigest()})


def read_manifest(path: Path) -> dict[str, Any]:
    where = path / MANIFEST
    if not where.is_file():
        raise WeightsError("not a complete checkpoint", where=path, expected=f"a file {MANIFEST}")
    try:
        with where.open("rb") as file:
            data = file.read(_MAX_MANIFEST)
    except OSError as fault:
        raise WeightsError("cannot read manifest", where=where, got=fault.strerror) from fault
    manifest = parse_json(data, where=where, error=WeightsError)
    if not isinstance(manifest, dict) or manifest.get("format") != "unimo":
        raise WeightsError("not the manifest of a checkpoint", where=where, expected='"format": "unimo"')
    version = manifest.get("version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise WeightsError(
            "unknown checkpoint format",
            where=where,
            got=version,
            expected=f"1 to {FORMAT_VERSION}",
            do="install the release that wrote it, or a newer one",
        )
    seal = manifest.pop("seal", None)
    if sealed(manifest) != data:
        raise WeightsError(
            "damaged manifest",
            where=where,
            got=f"seal {seal}",
            expected=f"seal {hashlib.sha256(json_bytes(manifest)).hexdigest()}",
            do="restore a copy; an earlier checkpoint is used where there is one",
        )
    files = manifest.get("files")
    well_formed = (
        isinstance(files, dict)
        and STATE in files
        and all(_FILE.fullmatch(name) and name != MANIFEST and _is_entry(entry) for name, entry in files.items())
        and type(manifest.get("step")) is int
    )
    if not well_formed:
        raise WeightsError("malformed manifest", where=where, expected="a step, and bytes and sha256 of plain files")
    named = NAME.fullmatch(path.name)
    if named and int(named[1]) != manifest["step"]:
        raise WeightsError(
            "the folder's name and its manifest disagree",
            where=path,
            got=f"step {manifest['step']}",
            expected=f"step {int(named[1])}",
            do="rename the folder back",
        )
    return manifest


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("bytes")) is int and isinstance(entry.get("sha256"), str)


def _check_file(path: Path, size: int, sha256: str) -> None:
    if not path.is_file():
        raise WeightsError("a file of the checkpoint is missing", where=path, expected=f"{size} bytes, sha256 {sha256}")
    do = "restore a copy; an earlier checkpoint is used where there is one"
    try:
        found = path.stat().st_size
        if found != size:
            raise WeightsError(
                "a file of the checkpoint has the wrong size",
                where=path,
                got=f"{found} bytes",
                expected=f"{size} bytes, sha256 {sha256}",
                do=do,
            )
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as fault:
        raise WeightsError("cannot read a file of the checkpoint", where=path, got=fault.strerror, do=do) from fault
    if digest.hexdigest() != sha256:
        raise WeightsError(
            "a file of the checkpoint is damaged",
            where=path,
            got=f"sha256 {digest.hexdigest()}",
            expected=f"sha256 {sha256}",
            do=do,
        )
