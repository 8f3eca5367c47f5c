"""The command line itself and what its verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    help="UNIMO and UNIMO-2: learn from texts, images and pairs; search, caption, fill in and classify.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Look at data before training on it.", no_args_is_help=True)
app.add_typer(data, name="data")
prepare = typer.Typer(
    help="Regions, rewritten captions and neighbours, made once before training.", no_args_is_help=True
)
app.add_typer(prepare, name="prepare")

Paths = Annotated[list[str] | None, typer.Option(help="Folder, glob or file; may be given several times.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace one setting.")]
Model = Annotated[str, typer.Argument(help="A run's folder or one of its checkpoints.")]
AnyModel = Annotated[str, typer.Argument(help="A run, one of its checkpoints, a saved folder, or a name on the hub.")]


def say(line: str) -> None:
    print(line, flush=True)
