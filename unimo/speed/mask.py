"""FlexAttention's mask of a packed row: from offsets against every pair of tokens laid out.

T packed tokens
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask

from unimo.batch import GROUND, IMAGE, TEXT
from unimo.model.attention import Plan
from unimo.model.block_mask import block_mask
from unimo.speed.turns import Runs, in_turns, milliseconds, speed_up

SEQUENCES = {  # of the fused row of recipe `base`: role -> tokens
    "pairs": {IMAGE: 197, GROUND: 100, TEXT: 64},
    "passages": {GROUND: 100, TEXT: 412},
}


def rows(size: str, rounds: int) -> Iterator[dict[str, Any]]:
    """FlexAttention's mask of 100,000 tokens; and of 1,000 against torch's own, which lays out every pair of tokens.

    size says nothing here.
    """
    for name, parts in SEQUENCES.items():
        long, short = (_row_of(parts, tokens) for tokens in (100_000, 1_000))
        runs: Runs = {
            "long": partial(block_mask, long),
            "short": partial(block_mask, short),
            "whole": partial(_whole, short),
        }
        seconds = in_turns(runs, rounds)
        yield {
            "benchmark": "mask",
            "sequences": name,
            "T": len(long),
            "milliseconds": milliseconds(seconds["long"]),
            "T, short": len(short),
            "speed-up, short": speed_up(seconds["whole"], seconds["short"], 1),
        }


def _whole(plan: Plan) -> Any:
    n = len(plan)
    return create_block_mask(lambda batch, head, q, k: plan.allowed(q, k), None, None, n, n, device="cpu")


def _row_of(parts: dict[int, int], tokens: int) -> Plan:
    n, length = tokens // sum(parts.values()), sum(parts.values())
    role = torch.tensor([role for role, count in parts.items() for _ in range(count)]).repeat(n)
    return Plan(torch.arange(n).repeat_interleave(length), role, torch.arange(length).repeat(n))
