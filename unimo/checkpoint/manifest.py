"""Manifest of a checkpoint, sealed against every changed bit; and the files compared with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unimo.disk import file_sha256
from unimo.errors import WeightsError, nearest
from unimo.json_files import json_bytes, parse_json

FORMAT_VERSION = 1
MANIFEST, STATE, SUFFIX = "MANIFEST.json", "state.json", ".safetensors"
MAX_STATE, _MAX_MANIFEST = 64 << 20, 1 << 20  # bytes
NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.(safetensors|json)")
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
    expected, do = f"{size} bytes, sha256 {sha256}", _RESTORE
    if not path.is_file():
        raise WeightsError("a file of the checkpoint is missing", where=path, expected=expected, do=do)
    try:
        if (found := path.stat().st_size) != size:
            what, got = "a file of the checkpoint has the wrong size", f"{found} bytes"
            raise WeightsError(what, where=path, got=got, expected=expected, do=do)
        digest = file_sha256(path)
    except OSError as fault:
        raise WeightsError("cannot read a file of the checkpoint", where=path, got=fault.strerror, do=do) from fault
    if digest != sha256:
        what, got = "a file of the checkpoint is damaged", f"sha256 {digest}"
        raise WeightsError(what, where=path, got=got, expected=f"sha256 {sha256}", do=do)


def sealed(manifest: dict[str, Any]) -> bytes:
    """The manifest with a hash over itself, so that no bit of it can change unnoticed either."""
    return json_bytes({**manifest, "seal": hashlib.sha256(json_bytes(manifest)).hexdigest()})


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint; WeightsError unless it is whole, of a known version and about plain files."""
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
        known, do = f"1 to {FORMAT_VERSION}", "install the release that wrote it, or a newer one"
        raise WeightsError("unknown checkpoint format", where=where, got=version, expected=known, do=do)
    seal = manifest.pop("seal", None)
    if sealed(manifest) != data:
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
            return bool(_FILE.fullmatch(name)) and name != MANIFEST
    return False
