"""The file a report goes to."""

from __future__ import annotations

from pathlib import Path

from unimo.disk import disk_error, write_atomic


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all, in folders that need not be there yet."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise disk_error(fault, path) from fault
    write_atomic(path, text.encode("utf-8", "replace"))
