"""The mask of FlexAttention, made from who is where: which blocks of queries see which blocks of keys.

    T packed tokens · B blocks of 128 of them · C cells · P pairs of cells

A cell is what one block holds of one role of one branch of a sequence. Sequences lie side by side, so there are hardly
more cells than blocks and sequences, and a cell sees only cells of its own sequence: nothing here is as large as T x T,
which `torch`'s own `create_block_mask` lays out whole (9 to 13 bytes a pair of tokens, some 100 GB for a GPU's batch).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unimo.model.attention import EARLIER, YES, Plan, allowed, rounded

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128  # tokens; FlexAttention's own


@dataclass(frozen=True)
class Cells:
    """C cells, in order of their group, which is a branch of a sequence. All (C,).

    shared: the group that holds what all branches of the sequence share; -1 where it is that group itself, or there is
    none. first, last: the smallest and the largest order of a cell's tokens; size: their number.
    """

    block: Tensor
    group: Tensor
    shared: Tensor
    role: Tensor
    first: Tensor
    last: Tensor
    size: Tensor


def block_mask(plan: Plan) -> BlockMask:
    """Every block of which some pair of tokens is allowed; as *full* those of which every pair is, tested no more.

    Lists of blocks are as wide as the longest of them, for queries and for keys.
    """
    from torch.nn.attention.flex_attention import BlockMask

    blocks = -(-len(plan) // BLOCK)
    q, k, full = block_pairs(plan)

    sent = plan.sent

    def mask_mod(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return allowed(sent, q, k)

    kv = [listed(q[wanted], k[wanted], blocks) for wanted in (~full, full)]
    back = [listed(k[wanted], q[wanted], blocks) for wanted in (~full, full)]
    lists: Any = [part.to(plan.device, non_blocking=True) for pair in (*kv, *back) for part in pair]
    return BlockMask(*((len(plan), len(plan)), *lists, (BLOCK, BLOCK), mask_mod))


def block_pairs(plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks of queries, the blocks of keys each of them sees something of, and whether all of it: (P,) each."""
    cells = cells_of(plan)
    blocks = -(-len(plan) // BLOCK)
    # A cell sees its own group, and what its sequence shares.
    groups = int(cells.group[-1]) + 1
    counts = torch.bincount(cells.group, minlength=groups)
    starts = counts.cumsum(0) - counts
    everyone = torch.arange(len(cells.group))
    has_shared = cells.shared >= 0
    asking = torch.cat([everyone, everyone[has_shared]])
    seen = torch.cat([cells.group, cells.shared[has_shared]])
    times = counts[seen]
    q = asking.repeat_interleave(times)
    within = torch.arange(len(q)) - (times.cumsum(0) - times).repeat_interleave(times)
    k = starts[seen].repeat_interleave(times) + within

    rule = plan.table[cells.role[q], cells.role[k]]
    some = (rule == YES) | ((rule == EARLIER) & (cells.first[k] <= cells.last[q]))
    every = (rule == YES) | ((rule == EARLIER) & (cells.last[k] <= cells.first[q]))
    q, k, every = q[some], k[some], every[some]
    pair, place = torch.unique(cells.block[q] * blocks + cells.block[k], return_inverse=True)
    covered = torch.zeros_like(pair).index_add_(0, place, cells.size[q] * cells.size[k] * every)
    return pair // blocks, pair % blocks, covered == BLOCK * BLOCK


def cells_of(plan: Plan) -> Cells:
    """The cells of a plan, by one pass over its tokens and a sort of their runs."""
    token = torch.arange(len(plan))
    begins = token % BLOCK == 0
    for part in (plan.owner, plan.branch, plan.role):
        begins[1:] |= part[1:] != part[:-1]
    run = begins.cumsum(0) - 1
    first = begins.nonzero()[:, 0]
    owner, branch, role, block = plan.owner[first], plan.branch[first], plan.role[first], first // BLOCK
    # Runs of one block, group and role that are apart (a role between two others) are one cell.
    branches, roles, blocks = int(branch.max()) + 1, int(role.max()) + 1, int(block[-1]) + 1
    sequence = torch.unique(owner, return_inverse=True)[1]
    group = sequence * branches + branch
    key, cell = torch.unique((group * blocks + block) * roles + role, return_inverse=True)
    role, key = key % roles, key // roles
    block, key = key % blocks, key // blocks
    present, group = torch.unique(key, return_inverse=True)
    shared = torch.searchsorted(present, present // branches * branches)  # the branch 0 of the same sequence
    has = (present % branches > 0) & (present[shared] == present // branches * branches)
    order, cell = plan.order.to(torch.int64), cell[run]
    ends = torch.zeros(2, len(role), dtype=torch.int64)
    return Cells(
        block,
        group,
        torch.where(has, shared, -1)[group],
        role,
        ends[0].scatter_reduce(0, cell, order, "amin", include_self=False),
        ends[1].scatter_reduce(0, cell, order, "amax", include_self=False),
        torch.bincount(cell, minlength=len(role)),
    )


def listed(rows: Tensor, columns: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Pairs of blocks -> how many columns each of n rows has (1, 1, n), and which, in order (1, 1, n, widest)."""
    order = torch.argsort(rows * n + columns)
    rows, columns = rows[order], columns[order]
    counts = torch.bincount(rows, minlength=n)
    starts = counts.cumsum(0) - counts
    # A few widths, and none of 1, which compiled kernels would take for a constant.
    widest = rounded(max(2, int(counts.max())), 4)
    table = torch.zeros(n, widest, dtype=torch.int32)
    table[rows, torch.arange(len(rows)) - starts[rows]] = columns.int()
    return counts.int()[None, None], table[None, None]
