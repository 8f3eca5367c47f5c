"""The command line itself and what its verbs share."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from unimo.cli.help import dressed
from unimo.errors import UsageError


def repeated(parameters: list[Any], args: list[str]) -> list[str]:
    """Arguments with a flag before each of several values: --pairs a b as --pairs a --pairs b.

    parameters: of the verb. Where it would lack a positional argument, the last values are taken for those.
    """
    flags = {name: each for each in parameters if each.param_type_name == "option" for name in each.opts}
    needed = sum(each.param_type_name == "argument" and each.required for each in parameters)
    found: list[str] = []
    added: list[int] = []  # places of flags that were put in
    flag, values, positional = None, 0, 0
    for arg in args:
        if arg.startswith("-") and len(arg) > 1:
            option = None if "=" in arg else flags.get(arg)
            flag, values = (arg if option is not None and not option.is_flag else None), 0
        elif flag is not None and (values == 0 or flags[flag].multiple):
            if values:
                added.append(len(found))
                found.append(flag)
            values += 1
        else:
            positional += 1
        found.append(arg)
    for place in reversed(added[len(added) - max(0, needed - positional) :] if needed > positional else []):
        del found[place]
    return found


class Verbs(TyperGroup):
    """A group whose verbs take several values after one flag, and answer options of other tools with ours."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        return None if command is None else dressed(command)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, rest if command is None else repeated(command.params, rest)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as fault:  # of the parser, whose classes are typer's own or click's
            option = getattr(fault, "option_name", None) if hasattr(fault, "possibilities") else None
            hint = _hint(option, fault) if option else None
            if hint is None:
                raise
            raise UsageError("no such option", where=option, got=option, do=hint) from fault


def _hint(option: str, fault: Any) -> str | None:
    """What to write instead of an unknown option; None where the parser knows better, or the verb has nothing of it."""
    from unimo.config.aliases import option_hint

    arguments = [each.name for each in fault.ctx.command.params if each.param_type_name == "argument"]
    if option.lstrip("-").replace("-", "_") in arguments:
        return f"give it without {option}: {fault.ctx.command_path} {' '.join(map(str.upper, arguments))}"
    hint = option_hint(option)
    if hint is None or not hint.startswith("--"):
        return None if fault.possibilities else hint
    known = {name for each in fault.ctx.command.params for name in each.opts}
    return hint if known & set(re.findall("--[a-z-]+", hint)) else None


app = typer.Typer(
    cls=Verbs,
    help="UNIMO and UNIMO-2: learn from texts, images and pairs; search, caption, fill in and classify.",
    epilog="Begin with `unimo pretrain scenes`: five minutes, no data needed. `unimo VERB --help` shows examples.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(cls=Verbs, help="Look at data before training on it.", no_args_is_help=True)
app.add_typer(data, name="data")
prepare = typer.Typer(
    cls=Verbs, help="Regions, rewritten captions and neighbours, made once before training.", no_args_is_help=True
)
app.add_typer(prepare, name="prepare")

Paths = Annotated[list[str] | None, typer.Option(help="Folders, globs or files, one or several.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="PART=COLUMN", help="Names a column of tables: image, caption, text, label."),
]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace one setting.")]
Log = Annotated[
    str | None, typer.Option(help="Curves: tensorboard, wandb, trackio, none; default TensorBoard if installed.")
]
Model = Annotated[str, typer.Argument(help="A run's folder or one of its checkpoints.")]
AnyModel = Annotated[
    str, typer.Argument(help="A run, one of its checkpoints, a saved folder, a downloaded name, or a name on the hub.")
]

# Of every verb that answers with a trained model.
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; by default cuda where there is one.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
BatchSize = Annotated[int, typer.Option(help="Inputs of a forward pass.", min=1)]
RowsOut = Annotated[str | None, typer.Option("--out", help="A .jsonl, .csv or .parquet file for the rows.")]
Column = Annotated[str | None, typer.Option(help="Column of a table that holds the inputs; KIND=NAME or NAME.")]
Images = Annotated[list[str], typer.Argument(help="Images, folders, patterns, .txt lists, tables; - for stdin.")]


def say(line: str) -> None:
    print(line, flush=True)
