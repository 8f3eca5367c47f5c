"""How the command line runs, and how it ends when something is wrong."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from unimo import __version__
from unimo.cli.common import app, say
from unimo.errors import UnimoError


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        say(f"unimo {__version__}")
        raise typer.Exit


def main() -> None:
    """Runs the command line; every known fault ends as a few readable lines and its own exit code."""
    try:
        app(standalone_mode=True)
    except UnimoError as error:
        tell(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("UNIMO_TRACEBACK"):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        tell(
            UnimoError(
                "a fault of unimo's own",
                where=f"{Path(where.filename).name}, line {where.lineno}",
                got=f"{type(error).__name__}: {error}",
                do=f"UNIMO_TRACEBACK=1 {shlex.join(['unimo', *sys.argv[1:]])} shows all of it; please report it",
            )
        )
        sys.exit(UnimoError.exit_code)


def tell(error: UnimoError) -> None:
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun the first process speaks for all
    parts = error.parts()
    print(f"error: {parts.pop('what')}", file=sys.stderr)
    for name, value in parts.items():
        print(f"  {name + ':':<10}{value}", file=sys.stderr)
