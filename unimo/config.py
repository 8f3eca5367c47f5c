"""Settings: frozen dataclasses in which every field has a type and a sentence.

    @dataclass(frozen=True)
    class Train:
        steps: int = setting(1000, "Optimizer steps of the whole run.")
        rate: float = setting(1e-4, "Peak learning rate.")

They can be overridden by `key=value` texts, read from and written to JSON, compared and described. A misspelt
key or a value of the wrong type is refused with the nearest name or the expected type, before any work
starts. Types a field may have: bool, int, float, str, Literal, tuple or list of these, another such
dataclass, and `... | None`.

Below them, the only JSON reader and writer of the package: strict reading, atomic writing.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import os
import secrets
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from unimo.errors import DataError, ResourceError, UnimoError, UsageError, nearest

S = TypeVar("S")

ABSENT = "(absent)"
_BOOLEANS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


# ------------------------------------------------------------------------------------------------ settings


def setting(default: Any, sentence: str) -> Any:
    """A dataclass field with its default and the sentence that explains it to a user."""
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={"help": sentence})
    return dataclasses.field(default=default, metadata={"help": sentence})


def override(settings: S, assignments: Iterable[str]) -> S:
    """A copy of `settings` with texts like "model.width=256" applied, all at once.

    Lists are written "1,2,3" or as JSON; `none` empties an optional field. Raises UsageError for a key that
    does not exist (naming the nearest), a value of the wrong type, and one key given two values.
    """
    texts: dict[str, str] = {}
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals or not key:
            raise UsageError("a setting must read key=value", got=assignment, expected="key=value")
        if texts.setdefault(key, text) != text:
            raise UsageError(
                "a setting is given two values",
                where=key,
                got=f"{texts[key]} and {text}",
                expected="one value",
                do="remove one of them",
            )
    return _apply(settings, {key: (key, text) for key, text in texts.items()}, root=settings)


def to_dict(settings: Any) -> dict[str, Any]:
    """Nested plain dictionaries and lists, ready for JSON."""
    return {name: _plain(getattr(settings, name)) for name in _hints(type(settings))}


def from_dict(cls: type[S], values: Mapping[str, Any], *, where: str = "") -> S:
    """The settings that `to_dict` described. Absent keys keep their defaults; unknown keys and wrong types
    are refused."""
    if not isinstance(values, Mapping):
        raise _wrong(where or cls.__name__, values, cls)
    hints = _hints(cls)
    for name in values:
        if name not in hints:
            raise _unknown(_join(where, str(name)), [_join(where, known) for known in hints])
    fitted = {name: _fit(value, hints[name], _join(where, name)) for name, value in values.items()}
    return _build(cls, fitted, where)


def flatten(settings: Any) -> dict[str, Any]:
    """Dotted key -> value, in the order of the fields. Takes settings or the nested dictionaries of
    `to_dict`."""
    flat: dict[str, Any] = {}
    for name, value in _items(settings):
        if _is_group(value):
            flat.update({f"{name}.{key}": leaf for key, leaf in flatten(value).items()})
        else:
            flat[name] = value
    return flat


def diff(a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    """(key, value in a, value in b) wherever they differ; a key that one side lacks is "(absent)" there."""
    flat_a, flat_b = flatten(a), flatten(b)
    rows = [(key, flat_a.get(key, ABSENT), flat_b.get(key, ABSENT)) for key in {**flat_a, **flat_b}]
    # 1 and 1.0 and True are equal in Python but not as settings: their texts differ.
    return [row for row in rows if _text(row[1]) != _text(row[2])]


def describe(settings: Any) -> list[str]:
    """One line per setting, "key = value  # sentence"; what stands before the # can be given back to
    `override`."""
    flat, sentences = flatten(settings), _sentences(settings)
    return [f"{key} = {_text(value)}  # {sentences[key]}" for key, value in flat.items()]


def fingerprint(settings: Any) -> str:
    """SHA-256 (hex) of the settings, independent of the order of fields."""
    plain = _plain(settings)
    check_json(plain)
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------ JSON


def load_json(
    path: str | Path, *, max_bytes: int = 16 << 20, max_depth: int = 64, error: type[UnimoError] = DataError
) -> Any:
    """The value in a JSON file that may come from anyone.

    Raises `error` for a file that is missing, too large or not UTF-8, and for syntax errors, duplicate keys,
    numbers that are not finite, lone surrogates and deep nesting: all things that Python's reader would let
    through or crash on.
    """
    path = Path(path)
    if not path.is_file():  # a pipe or a device would block or never end
        raise error("no such file", where=path, expected="a JSON file")
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as fault:
        raise error("cannot read file", where=path, got=fault.strerror) from fault
    if len(data) > max_bytes:
        raise error(
            "JSON file too large",
            where=path,
            got=f"more than {max_bytes} bytes",
            expected=f"at most {max_bytes}",
        )
    return parse_json(data, where=path, max_depth=max_depth, error=error)


def parse_json(data: bytes | str, *, where: object, max_depth: int = 64, error: type[UnimoError] = DataError) -> Any:
    """As `load_json`, from bytes or text at hand."""
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except RecursionError as fault:
        raise error("JSON nested too deeply", where=where, expected=f"at most {max_depth} levels") from fault
    except ValueError as fault:  # also UnicodeDecodeError, JSONDecodeError and integers of absurd length
        raise error("not valid JSON", where=where, got=fault, do="restore the file or correct it by hand") from fault
    check_json(value, where=where, max_depth=max_depth, error=error)
    return value


def check_json(value: Any, *, where: object = None, max_depth: int = 64, error: type[UnimoError] = DataError) -> None:
    """Refuses what would not come back from JSON exactly as it is: NaN, tuples, keys that are not text,
    objects."""
    # A place, (place of the container, key), becomes text only in a message: long keys would cost squares.
    todo: list[tuple[tuple[Any, object] | None, Any, int]] = [(None, value, 1)]
    while todo:
        place, item, level = todo.pop()
        fault: tuple[object, str] | None = None
        if isinstance(item, (dict, list)) and level > max_depth:
            fault = ("deeper nesting", f"at most {max_depth} levels")
        elif isinstance(item, dict):
            if any(not isinstance(name, str) for name in item):
                fault = ("a key that is not text", "keys that are text")
            else:
                todo += [((place, name), child, level + 1) for name, child in item.items()]
                todo += [((place, "(a key)"), name, level + 1) for name in item]
        elif isinstance(item, list):
            todo += [((place, i), child, level + 1) for i, child in enumerate(item)]
        elif isinstance(item, str):
            if not item.isascii() and any("\ud800" <= c <= "\udfff" for c in item):
                fault = ("text with a lone surrogate", "valid Unicode")
        elif isinstance(item, float):
            if not math.isfinite(item):
                fault = (item, "a finite number")
        elif item is not None and not isinstance(item, (bool, int)):
            fault = (type(item).__name__, "null, true, false, a number, text, a list or a dictionary")
        if fault:
            keys: list[str] = []
            while place is not None:
                place, key = place
                keys.insert(0, str(key))
            located = ": ".join(str(part) for part in (where, ".".join(keys)) if part)
            what = "a value JSON cannot hold exactly"
            raise error(what, where=located or None, got=fault[0], expected=fault[1])


def json_bytes(value: Any, *, where: object = None) -> bytes:
    """Indented JSON in UTF-8; floats are written by `repr`, so that every bit comes back. DataError as
    `check_json`."""
    check_json(value, where=where)
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file so that a reader, a kill or a power cut meets either the old file or the whole new
    one."""
    write_atomic(path, json_bytes(value, where=path))


def write_atomic(path: str | Path, data: bytes) -> None:
    """`write_json` for bytes. Raises ResourceError when the disk is full or refuses; the old file is then
    intact."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial.{secrets.token_hex(4)}")
    try:
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as fault:
        raise disk_error(fault, path, needed=len(data)) from fault


def sync_folder(folder: str | Path) -> None:
    """Makes names created, renamed or removed in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_error(fault: OSError, where: object, *, needed: int | None = None, free: int | None = None) -> ResourceError:
    """The located error for a write that the operating system refused."""
    full = fault.errno in _DISK_FULL
    return ResourceError(
        "disk full" if full else "cannot write to disk",
        where=where,
        got=fault.strerror if free is None else f"{fault.strerror}; {free} bytes free",
        expected=None if needed is None else f"room for {needed} bytes",
        do="free some space or choose another folder" if full else "check the folder's permissions and the disk",
    )


# ------------------------------------------------------------------------------------------------ inside


def _apply(settings: Any, changes: dict[str, tuple[str, str]], *, root: Any) -> Any:
    """changes: key relative to `settings` -> (full key for messages, text)."""
    hints = _hints(type(settings))
    values: dict[str, Any] = {}
    groups: dict[str, dict[str, tuple[str, str]]] = {}
    for key, (full, text) in changes.items():
        name, _, rest = key.partition(".")
        group = _group_type(hints[name]) if name in hints else None
        if name not in hints or (rest and group is None):
            raise _unknown(full, flatten(root))
        if rest:
            groups.setdefault(name, {})[rest] = (full, text)
        elif group is None:
            values[name] = _parse(text, hints[name], full)
        elif _optional(hints[name]) and text.lower() == "none":
            values[name] = None
        else:
            raise _wrong(full, text, hints[name], do=f"set one of {', '.join(f'{full}.{k}' for k in _hints(group))}")
    for name, inner in groups.items():
        if name in values:
            raise UsageError("a group of settings is emptied and set", where=name, expected="one of both")
        group = _group_type(hints[name])
        current = getattr(settings, name)
        values[name] = _apply(_build(group, {}, name) if current is None else current, inner, root=root)
    kept = {name: getattr(settings, name) for name in hints if name not in values}
    return _build(type(settings), kept | values, "")


def _build(cls: Any, values: dict[str, Any], where: str) -> Any:
    missing = [
        field.name
        for field in dataclasses.fields(cls)
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError("a required setting is missing", where=_join(where, missing[0]), do="give it a value")
    try:
        return cls(**values)
    except ValueError as fault:  # a dataclass may check its own values in __post_init__
        raise UsageError("settings contradict each other", where=where or cls.__name__, got=fault) from fault


def _parse(text: str, hint: Any, key: str) -> Any:
    """The value that a text means for a field of this type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        if _optional(hint) and text.lower() == "none":
            return None
        return _first_that_fits(lambda member: _parse(text, member, key), text, hint, key)
    if origin is Literal:
        choices = {str(choice): choice for choice in arguments}
        return choices[text] if text in choices else _refuse(key, text, hint)
    if origin in (tuple, list):
        if text.startswith("["):
            return _fit(parse_json(text, where=key, error=UsageError), hint, key)
        pieces = [piece.strip() for piece in text.removesuffix(",").split(",")] if text else []
        return origin(_parse(piece, kind, key) for piece, kind in zip(pieces, _item_hints(pieces, hint, key)))
    try:
        if hint is bool:
            return _BOOLEANS[text.lower()]
        if hint in (int, float):
            return _fit(hint(text), hint, key)
    except (KeyError, ValueError):
        raise _wrong(key, text, hint) from None
    return _fit(text, hint, key)


def _fit(value: Any, hint: Any, key: str) -> Any:
    """The JSON value as a field of this type holds it; anything that would need a guess is refused."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        if value is None and _optional(hint):
            return None
        return _first_that_fits(lambda member: _fit(value, member, key), value, hint, key)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(Any, hint), value, where=key)
    if origin is Literal:
        fits = any(value == choice and type(value) is type(choice) for choice in arguments)
        return value if fits else _refuse(key, value, hint)
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise _wrong(key, value, hint)
        return origin(_fit(item, kind, key) for item, kind in zip(value, _item_hints(value, hint, key)))
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint in (bool, int, str) and type(value) is hint:
        return value
    raise _wrong(key, value, hint)


def _first_that_fits(attempt: Any, value: Any, hint: Any, key: str) -> Any:
    members = [member for member in typing.get_args(hint) if member is not types.NoneType]
    if len(members) == 1 and dataclasses.is_dataclass(members[0]):  # keeps the message located inside it
        return attempt(members[0])
    for member in members:
        try:
            return attempt(member)
        except UsageError:
            continue
    raise _wrong(key, value, hint)


def _item_hints(items: Iterable[Any], hint: Any, key: str) -> list[Any]:
    count, arguments = len(list(items)), typing.get_args(hint)
    if typing.get_origin(hint) is list or arguments[1:] == (...,):
        return [arguments[0]] * count
    if count != len(arguments):
        raise _wrong(key, f"{count} values", hint)
    return list(arguments)


def _hints(cls: Any) -> dict[str, Any]:
    """Field name -> type; a field without a sentence is a fault of whoever wrote the class."""
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    silent = [field.name for field in fields if not field.metadata.get("help")]
    if silent:
        raise TypeError(f"{cls.__name__}.{silent[0]} has no sentence: write it as `setting(default, sentence)`")
    return {field.name: hints[field.name] for field in fields}


def _sentences(settings: Any) -> dict[str, str]:
    sentences: dict[str, str] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if _is_group(value):
            sentences.update({f"{field.name}.{key}": text for key, text in _sentences(value).items()})
        else:
            sentences[field.name] = field.metadata["help"]
    return sentences


def _items(settings: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(settings, Mapping):
        return settings.items()
    return [(name, getattr(settings, name)) for name in _hints(type(settings))]


def _plain(value: Any) -> Any:
    if _is_group(value):
        return {name: _plain(item) for name, item in _items(value)}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(_plain(value))


def _is_group(value: Any) -> bool:
    return isinstance(value, Mapping) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _optional(hint: Any) -> bool:
    return _is_union(hint) and types.NoneType in typing.get_args(hint)


def _group_type(hint: Any) -> Any:
    """The settings class behind a field's type, or None."""
    members = typing.get_args(hint) if _is_union(hint) else (hint,)
    return next((member for member in members if dataclasses.is_dataclass(member)), None)


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _unknown(key: str, known: Iterable[str]) -> UsageError:
    known = list(known)
    by_last_part = {name.rpartition(".")[2]: name for name in reversed(known)}
    nearest_last = nearest(key.rpartition(".")[2], by_last_part)
    guess = by_last_part.get(key) or nearest(key, known) or by_last_part.get(nearest_last or "")
    return UsageError(
        "no such setting",
        where=key,
        expected=guess or ", ".join(known[:20]),
        do=f"did you mean {guess}?" if guess else "choose one of the expected names",
    )


def _wrong(key: str, value: Any, hint: Any, do: str | None = None) -> UsageError:
    got = value if isinstance(value, str) else json.dumps(value, default=repr)
    return UsageError("wrong type of setting", where=key, got=got, expected=_type_name(hint), do=do)


def _refuse(key: str, value: Any, hint: Any) -> typing.NoReturn:
    raise _wrong(key, value, hint)


def _type_name(hint: Any) -> str:
    simple = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in simple:
        return simple[hint]
    if _is_union(hint):
        members = [_type_name(member) for member in arguments if member is not types.NoneType]
        return " or ".join([*members, "none"] if _optional(hint) else members)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if origin in (tuple, list):
        if origin is list or arguments[1:] == (...,):
            return f"a list, each {_type_name(arguments[0])}"
        return f"{len(arguments)} values: " + ", ".join(_type_name(item) for item in arguments)
    if dataclasses.is_dataclass(hint):
        return "a group of settings"
    raise TypeError(f"a setting cannot have the type {hint}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"key {key[:80]!r} occurs twice")
        values[key] = value
    return values


def _no_constant(name: str) -> typing.NoReturn:
    raise ValueError(f"{name} is not a JSON number")
