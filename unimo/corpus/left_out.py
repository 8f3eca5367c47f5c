"""What a preparation left out, in a line for each reason: nobody should have to look for it."""

from __future__ import annotations

from collections.abc import Callable

from unimo.corpus.bad_samples import Ledger


def tell_left_out(ledger: Ledger, say: Callable[[str], None]) -> None:
    """Says how many of the offered samples are bad, why, and where they are named; and lesser findings (notes)."""
    found = ledger.summary()
    if found["quarantined"]:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in found["reasons"].items())
        named = f"listed in {found['file']}" if found["file"] else "--ledger FILE would name them"
        say(f"{found['quarantined']} of {found['offered']} are bad ({reasons}), {named}")
    for line in ledger.notes.lines():
        say(line)
