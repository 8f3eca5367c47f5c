"""Templates of zero-shot classification: a sentence with a place for the name of a class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import Formatter

from unimo.errors import UsageError

PROMPTS = ("{}", "a {}", "a picture of a {}")


def prompted(names: Sequence[str], prompts: Sequence[str] = PROMPTS) -> list[str]:
    """Every template with every name at its place: names one after the other, of each all templates.

    A place is {} or has any one name: {c}, {classname}. It may come more than once; a brace that is meant as one is
    doubled. UsageError for a template without a place, with places of two names or of another form, and for names that
    are empty or come twice.
    """
    names, prompts = _listed(names, "class name"), _listed(prompts, "prompt")
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise UsageError("not a class name", where="names", got=repr(name)[:60], expected="a text")
        if name in seen:  # both would share what one of them should get
            raise UsageError("a class is named twice", where="names", got=name[:60], expected="each class once")
        seen.add(name)
    pieces = [_pieces(prompt) for prompt in prompts]
    return [name.join(parts) for name in names for parts in pieces]


def _listed(given: Sequence[str], what: str) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(
            f"a single {what}", got=repr(given)[:80], expected=f"a list of {what}s", do="put it into [...]"
        )
    listed = list(given)
    if not listed:
        raise UsageError(f"no {what}s", got="an empty list", expected="at least one")
    return listed


def _pieces(prompt: str) -> list[str]:
    """What stands before, between and behind the places of a template."""
    if not isinstance(prompt, str):
        raise UsageError("not a prompt", where="prompts", got=type(prompt).__name__, expected="a text with one {}")
    try:
        parsed = list(Formatter().parse(prompt))
    except ValueError as error:
        raise _refused("a prompt with an odd brace", prompt, str(error)) from None
    pieces, places = [""], set()
    for text, place, form, conversion in parsed:
        pieces[-1] += text
        if place is None:
            continue
        if form or conversion or not (place == "" or place.isidentifier() or place.isdigit()):
            raise _refused("a prompt whose place is more than a name", prompt)
        places.add(place)
        pieces.append("")
    if not places:
        raise _refused("a prompt without a place for the class name", prompt)
    if len(places) > 1:
        raise _refused("a prompt with places of different names", prompt, ", ".join(sorted(places)))
    return pieces


def _refused(what: str, prompt: str, why: str = "") -> UsageError:
    return UsageError(
        what,
        where="prompts",
        got=prompt[:80] + (f" ({why})" if why else ""),
        expected='one place, {} or {name}, as in "a photo of a {}"',
        do="write {{ and }} for braces that are meant as such",
    )
