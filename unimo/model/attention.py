"""Attention as data: every packed token says who it is, and one small table says who may see whom.

    N sequences · T packed tokens · L queries and M keys of a bucket · D width · H heads

Tokens of many sequences lie in one packed row of T tokens. Each carries four small integers:

    owner   which sequence it belongs to
    branch  0 = shared by the whole sequence; b > 0 = one of several texts beside the same prefix
    role    IMAGE, GROUND, TEXT, KNOWN or WRITTEN
    order   its place among the written tokens

    q sees k  when  same owner, and (k.branch is 0 or k.branch == q.branch), and table[q.role][k.role] allows it
                    (0 = no, 1 = yes, 2 = only itself and what was written earlier)

UNIMO-2 (spec §2.5). TEXT is read (understanding), WRITTEN is generated, KNOWN stands before a written answer:

    #          image  ground  text  known  written
    # image      ●      ●      ·      ·      ·
    # ground     ●      ●      ●      ·      ·        understanding: image and text meet only through
    # text       ·      ●      ●      ·      ·        the grounded tokens
    # known      ●      ●      ·      ●      ·        generation: the text looks back at everything,
    # written    ●      ●      ·      ●      ◔        nothing looks at the text

UNIMO (spec unimo §1.8) has no grounded tokens. In *joint* fusion, the papers', regions and words see each other; in
*prefix* fusion the image does not look at its texts, so that many can share it:

    #          image   text  known  written
    # image      ●      ●/·    ●/·    ·
    # text       ●      ●      ·      ·
    # known      ●      ·      ●      ·
    # written    ●      ·      ●      ◔

Three forms compute the same: `dense` (rectangles of similar length; the CPU's form), `reference` (one T x T
matrix, for tests) and `flex` (FlexAttention; the GPU's form, whose backward does not exist on a CPU).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unimo.batch import IMAGE, PADDING, WRITTEN

NO, YES, EARLIER = 0, 1, 2  # entries of the tables below
MASK_BIAS = -1e4  # the published graph's additive bias: a row that may see nothing stays finite

Table = tuple[tuple[int, ...], ...]
UNDERSTANDING_AND_GENERATION: Table = (  # rows: query role; columns: key role, image, ground, text, known, written
    (YES, YES, NO, NO, NO),
    (YES, YES, YES, NO, NO),
    (NO, YES, YES, NO, NO),
    (YES, YES, NO, YES, NO),
    (YES, YES, NO, YES, EARLIER),
)
BASELINE: Table = (  # "Our Baseline" (spec §2.7): no dictionary, image and text see each other when understanding
    (YES, YES, YES, NO, NO),
    (YES, YES, YES, NO, NO),
    (YES, YES, YES, NO, NO),
    (YES, YES, NO, YES, NO),
    (YES, YES, NO, YES, EARLIER),
)
JOINT: Table = (
    (YES, NO, YES, YES, NO),
    (NO, NO, NO, NO, NO),
    (YES, NO, YES, NO, NO),
    (YES, NO, NO, YES, NO),
    (YES, NO, NO, YES, EARLIER),
)
PREFIX: Table = ((YES, NO, NO, NO, NO), *JOINT[1:])


def rounded(n: int, parts: int = 8) -> int:
    """The next of `parts` equal steps within an octave: at most 1 / parts more than n, and few values in all.

    Matrix-product libraries prepare a kernel for every shape they meet and keep the last thousand. Packed rows are of
    another length at every step, so nothing would ever be met twice: see docs/lab-notebook.md, 2026-11-22.
    """
    if n <= parts:
        return n
    step = 1 << max(0, (n - 1).bit_length() - parts.bit_length())
    return -(-n // step) * step


def with_padding(table: Table) -> Table:
    """The table with one more role, PADDING, which sees nothing and which nothing sees."""
    return (*((*row, NO) for row in table), (NO,) * (1 + len(table)))


def with_padding_read(table: Table) -> Table:
    """The same, but what is written reads the padding too, and the padding what is before the text.

    A slip of published captioning (spec unimo2 §6.2).
    """
    rows = list(with_padding(table))
    rows[WRITTEN] = (*rows[WRITTEN][:PADDING], YES)
    rows[PADDING] = (YES, YES, NO, NO, NO, NO)
    return tuple(rows)


@dataclass(frozen=True)
class Bucket:
    """Groups of similar length, laid out as one rectangle (n, L) of queries and one (n, M) of keys.

    A group is a branch of a sequence (without branches, a sequence); its keys are its own tokens and, before them, what
    its branches share. rows: (n * L,) where each slot's token lies in the packed row (padding slots repeat a real row),
    or None when the rectangle is the slice [start, start + n * L) of the packed row. key_rows: (n * M,) the same of the
    keys, or None when they are the queries. bias: (n, 1, L, M) additive, or None. A bucket with padding is rounded to
    few shapes (see `rounded`), with groups that nobody reads.
    """

    n: int
    length: int
    start: int
    rows: Tensor | None
    key_rows: Tensor | None
    bias: Tensor | None

    def queries(self, x: Tensor) -> Tensor:
        """This bucket's tokens of a packed row: (T, D) -> (n, L, D)."""
        last = self.start + self.n * self.length
        mine = x[self.start : last] if self.rows is None else x.index_select(0, self.rows)
        return mine.unflatten(0, (self.n, self.length))

    def keys(self, x: Tensor) -> Tensor:
        """What they may look at: (T, D) -> (n, M, D)."""
        return self.queries(x) if self.key_rows is None else x.index_select(0, self.key_rows).unflatten(0, (self.n, -1))


@dataclass(frozen=True)
class _Groups:
    """G branches of sequences. rows: (T,) packed rows, branch by branch; starts, lengths: (G,) of each in there.

    shared_starts, shared: (G,) the same of what it sees of its sequence's shared part, 0 where it is that part itself.
    """

    rows: Tensor
    starts: Tensor
    lengths: Tensor
    shared_starts: Tensor
    shared: Tensor


class Plan:
    """Who sees whom in one packed row, and how the dense form cuts it into rectangles.

    owner, branch, role, order: (T,) integer tensors; tokens of an owner lie side by side. table: see above;
    roles beyond it see nothing. waste: how much of a sequence in its bucket may be padding; only attention
    pays for it. device: where attention is computed, if not where these tensors are. Rectangles and block masks are
    laid out on the host, where looking at a length waits for nothing.
    """

    def __init__(
        self,
        owner: Tensor,
        role: Tensor,
        order: Tensor,
        branch: Tensor | None = None,
        *,
        table: Table = UNDERSTANDING_AND_GENERATION,
        waste: float = 0.5,
        device: torch.device | None = None,
    ):
        self.device = device or owner.device
        self.owner, self.role, self.order = owner.cpu(), role.cpu(), order.cpu()
        self.branch = torch.zeros_like(self.owner) if branch is None else branch.cpu()
        self.table = torch.tensor(table if len(table) > PADDING else with_padding(table))
        self.waste = waste
        self.rows = rounded(len(owner))  # what a packed row of this plan is padded to

    @classmethod
    def rectangle(cls, n: int, length: int, device: torch.device) -> Plan:
        """n image sequences of equal length: everything sees everything, nothing is padded."""
        owner = torch.arange(n).repeat_interleave(length)
        plan = cls(owner, torch.full_like(owner, IMAGE), torch.zeros_like(owner), device=device)
        plan.__dict__["buckets"] = ([Bucket(n, length, 0, None, None, None)], None)
        plan.rows = len(plan)  # batches of images have one shape as they are
        return plan

    def __len__(self) -> int:
        return len(self.owner)

    @cached_property
    def sent(self) -> tuple[Tensor, ...]:
        """owner, branch, role, order and table where attention is computed."""
        parts = (self.owner, self.branch, self.role, self.order, self.table)
        return tuple(part.to(self.device, non_blocking=True) for part in parts)

    def allowed(self, q: Tensor, k: Tensor) -> Tensor:
        """May token q see token k? q, k: broadcastable integer tensors of packed positions, on the plan's device."""
        return allowed(self.sent, q, k)

    @cached_property
    def buckets(self) -> tuple[list[Bucket], Tensor | None]:
        """The dense form's rectangles, and where each packed token stands among their slots laid end to end."""
        groups = self._groups()
        buckets, slots, first = [], torch.empty(len(self), dtype=torch.int64), 0
        # Groups with something before them do not share a rectangle with those without.
        for left in ((groups.shared == 0).nonzero()[:, 0], groups.shared.nonzero()[:, 0]):
            left = left[torch.argsort(groups.lengths[left], descending=True, stable=True)]
            while len(left):
                max_length = int(groups.lengths[left[0]])
                # Groups join while they fill enough of the rectangle on their own.
                n = int((groups.lengths[left] >= (1 - self.waste) * max_length).sum())
                mine, left = left[:n].sort().values, left[n:]
                bucket, rows, valid = self._bucket(groups, mine)
                slots[rows[valid]] = first + torch.arange(rows.numel()).reshape(rows.shape)[valid]
                first += rows.numel()
                buckets.append(bucket)
        if len(buckets) == 1 and buckets[0].rows is None:
            return buckets, None
        return buckets, slots.to(self.device, non_blocking=True)

    def _groups(self) -> _Groups:
        """The branches of every sequence, in packed order."""
        owner, branch = self.owner, self.branch
        key = owner * (int(branch.max()) + 1 if len(branch) else 1) + branch
        rows = torch.argsort(key, stable=True)
        lengths = torch.unique_consecutive(key[rows], return_counts=True)[1]
        starts = lengths.cumsum(0) - lengths
        sequence, branch = owner[rows[starts]], branch[rows[starts]]
        first = torch.searchsorted(sequence, sequence)  # the first branch of its sequence
        shared = torch.where((branch > 0) & (branch[first] == 0), lengths[first], 0)
        return _Groups(rows, starts, lengths, starts[first], shared)

    def _bucket(self, groups: _Groups, mine: Tensor) -> tuple[Bucket, Tensor, Tensor]:
        """The rectangle of some groups, the packed row of each of its slots (n, L), and which slots are real."""
        lengths, shared = groups.lengths[mine], groups.shared[mine]
        n, length, width = len(mine), int(lengths.max()), int((lengths + shared).max())
        if bool((lengths != length).any()) or bool((shared != shared[0]).any()):
            n, length, width = rounded(n, 4), rounded(length, 4), rounded(width, 4)
        lengths, shared = F.pad(lengths, (0, n - len(mine))), F.pad(shared, (0, n - len(mine)))
        starts, before = (F.pad(x[mine], (0, n - len(mine)))[:, None] for x in (groups.starts, groups.shared_starts))
        place, seen = torch.arange(length), torch.arange(width)
        valid = place < lengths[:, None]
        rows = groups.rows[torch.where(valid, starts + place, starts)]
        if not groups.shared[mine].any():
            key_valid, key_rows = valid, rows
        else:
            key_valid = seen < (lengths + shared)[:, None]
            own = starts + (seen - shared[:, None]).clamp_min(0)
            key_rows = groups.rows[
                torch.where(key_valid, torch.where(seen < shared[:, None], before + seen, own), starts)
            ]
        queries, keys, real = (x.to(self.device, non_blocking=True) for x in (rows, key_rows, key_valid))
        bias = None
        if not (bool(key_valid.all()) and self._sees_all(rows, key_rows)):
            allowed = self.allowed(queries[:, :, None], keys[:, None, :]) & real[:, None, :]
            bias = (~allowed).float().mul_(MASK_BIAS)[:, None]
        start, flat = int(rows[0, 0]), rows.flatten()
        joined = bool(valid.all()) and bool((flat == start + torch.arange(len(flat))).all())
        looked_at = None if key_rows is rows else keys.flatten()
        return Bucket(n, length, start, None if joined else queries.flatten(), looked_at, bias), rows, valid

    def _sees_all(self, rows: Tensor, key_rows: Tensor) -> bool:
        """Whether each of these rows sees any of these keys that lies in its sequence, by their roles alone."""
        roles, key_roles = torch.unique(self.role[rows]), torch.unique(self.role[key_rows])
        return bool((self.table[roles][:, key_roles] == YES).all())

    @cached_property
    def block_mask(self):
        """The same rule as a FlexAttention block mask."""
        from unimo.model.block_mask import block_mask

        return block_mask(self)


def allowed(sent: tuple[Tensor, ...], q: Tensor, k: Tensor) -> Tensor:
    """See `Plan.allowed`. sent: as of a plan."""
    owner, branch, role, order, table = sent
    rule = table[role[q], role[k]]
    branch_ok = (branch[k] == 0) | (branch[k] == branch[q])
    order_ok = (rule == YES) | ((rule == EARLIER) & (order[k] <= order[q]))
    return (owner[q] == owner[k]) & branch_ok & order_ok


def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, heads: int, *, dropout: float = 0.0, form: Any = "dense"):
    """Scaled dot-product attention of a packed row. q, k, v: (T, D). Returns (T, D).

    form: "dense", "reference" or "flex" (see the module's docstring), or a function of q, k, v, plan and heads; dropout
    acts on the attention weights, but not in the flex form, which knows none.
    """
    if not len(plan):  # a batch without texts
        return v
    if callable(form):
        return form(q, k, v, plan, heads)
    if form == "flex":
        return _flex(q, k, v, plan, heads)
    if form == "reference":
        token = torch.arange(len(plan), device=q.device)
        bias = (~plan.allowed(token[:, None], token[None, :])).float() * MASK_BIAS
        return _rectangle(q[None], k[None], v[None], bias[None, None], heads, dropout)[0]
    buckets, slots = plan.buckets
    outs = []
    for bucket in buckets:
        seen = _rectangle(bucket.queries(q), bucket.keys(k), bucket.keys(v), bucket.bias, heads, dropout)
        outs.append(seen.flatten(0, 1))
    out = torch.cat(outs) if len(outs) > 1 else outs[0]
    return out if slots is None else out.index_select(0, slots)


def _rectangle(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, heads: int, dropout: float) -> Tensor:
    """Attention of (n, L, D) queries over (n, M, D) keys and values; bias: (n, 1, L, M) or None."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (n, H, L, D/H)
    if q.is_cuda:
        bias = None if bias is None else bias.to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    else:  # on a CPU the plain form's backward is about twice as fast as the fused one's in bf16
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if bias is not None:
            scores = scores + bias.to(scores.dtype)
        out = F.dropout(scores.softmax(-1), dropout, dropout > 0).to(v.dtype) @ v
    return out.transpose(1, 2).flatten(-2)


def _flex(q: Tensor, k: Tensor, v: Tensor, plan: Plan, heads: int) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    kernel = compiled(flex_attention) if q.is_cuda else flex_attention
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(0, 1)[None].contiguous() for x in (q, k, v))
    return kernel(q, k, v, block_mask=plan.block_mask)[0].transpose(0, 1).flatten(-2)


@cache
def compiled(function):
    """A function compiled once a process: compiling again for every call would cost seconds each time."""
    return torch.compile(function, dynamic=True)
