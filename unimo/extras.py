"""Libraries that only some of what this package does needs."""

from __future__ import annotations

import importlib
from typing import Any

from unimo.errors import UsageError


def optional(module: str, needed_by: str, do: str, *, where: object = None) -> Any:
    """A module of an optional library; UsageError that says what needs it and what to do where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as fault:
        library = module.partition(".")[0]
        raise UsageError(f"{needed_by} needs {library}", where=where, got=fault, do=do) from fault
