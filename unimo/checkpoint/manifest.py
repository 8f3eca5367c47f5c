"""Manifest of a checkpoint, sealed against every changed bit; and the files compared with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unimo.errors import DataError, WeightsError, nearest
from unimo.file_access import hash_file
from unimo.json_files import json_bytes, load_json

FORMAT_VERSION = 1
MANIFEST, STATE, SUFFIX = "MANIFEST.json", "state.json", ".safetensors"
MAX_STATE, _MAX_MANIFEST = 64 << 20, 1 << 20  # bytes
NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")
_FILE = re.compile(r"(?!MANIFEST\.)[A-Za-z0-9][A-Za-z0-9_-]*\.(safetensors|json)")
_RESTORE = "restore a copy; an earlier checkpoint is used where there is one"


def order(path: Path) -> tuple[int, int]:
    """(step, how often this step had been saved before)."""
    named = NAME.fullmatch(path.name)
    assert named
    return int(named[1]), int(named[2] or 0)


def candidates(folder: Path) -> list[Path]:
    """Everything that claims to be a checkpoint, newest first."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in paths if NAME.fullmatch(path.name)), key=order, reverse=True)


def verify(path: str | Path, *, groups: Iterable[str] | None = None) -> dict[str, Any]:
    """The manifest, once every file has its size and SHA-256; WeightsError names the file that has not.

    groups: check the files of these groups (and the state) only.
    """
    path = Path(path)
    manifest = read_manifest(path)
    files = manifest["files"]
    if groups is not None:
        known = [name.removesuffix(SUFFIX) for name in files if name != STATE]
        for group in (groups := list(groups)):
            if group not in known:
                likely = nearest(group, known) or ", ".join(known)
                raise WeightsError("no such group in the checkpoint", where=path, got=group, expected=likely)
        files = {name: files[name] for name in (STATE, *(f"{group}{SUFFIX}" for group in groups))}
    for name, entry in files.items():
        _check_file(path / name, entry["bytes"], entry["sha256"])
    return manifest


def _check_file(path: Path, size: int, sha256: str) -> None:
    try:
        found = path.stat().st_size if path.is_file() else None
        digest = hash_file(path) if found == size else None
    except (OSError, DataError) as fault:
        what, got = "cannot read a file of the checkpoint", fault.strerror if isinstance(fault, OSError) else fault.got
        raise WeightsError(what, where=path, got=got, do=_RESTORE) from fault
    if digest != sha256:
        got = f"sha256 {digest}" if digest else "no file" if found is None else f"{found} bytes"
        expected = f"sha256 {sha256}, {size} bytes"
        raise WeightsError("a file of the checkpoint is damaged", where=path, got=got, expected=expected, do=_RESTORE)


def sealed(manifest: dict[str, Any]) -> bytes:
    """The manifest with a hash over itself, so that no bit of it can change unnoticed either."""
    return json_bytes({**manifest, "seal": hashlib.sha256(json_bytes(manifest)).hexdigest()})


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint; WeightsError unless it is whole, of a known version and about plain files."""
    where = path / MANIFEST
    manifest = load_json(where, max_bytes=_MAX_MANIFEST, error=WeightsError)
    if not isinstance(manifest, dict) or manifest.get("format") != "unimo":
        raise WeightsError("not the manifest of a checkpoint", where=where, expected='"format": "unimo"')
    version, seal = manifest.get("version"), manifest.pop("seal", None)
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        known, do = f"1 to {FORMAT_VERSION}", "install the release that wrote it, or a newer one"
        raise WeightsError("unknown checkpoint format", where=where, got=version, expected=known, do=do)
    if sealed(manifest) != where.read_bytes():
        raise WeightsError("damaged manifest", where=where, got=f"seal {seal}", do=_RESTORE)
    files, step = manifest.get("files"), manifest.get("step")
    listed = isinstance(files, dict) and STATE in files and all(map(_is_entry, files.items()))
    if not listed or type(step) is not int:
        raise WeightsError("malformed manifest", where=where, expected="a step, and bytes and sha256 of plain files")
    if NAME.fullmatch(path.name) and order(path)[0] != step:
        what, do = "the folder's name and its manifest disagree", "rename the folder back"
        raise WeightsError(what, where=path, got=f"step {step}", expected=f"step {order(path)[0]}", do=do)
    return manifest


def _is_entry(named: tuple[str, Any]) -> bool:
    match named:
        case (str(name), {"bytes": int(), "sha256": str()}):
            return _FILE.fullmatch(name) is not None
    return False
