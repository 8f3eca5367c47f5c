"""FlexAttention's mask from offsets is the rule, block by block, and is never as large as tokens times tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unimo.batch import GROUND, IMAGE, KNOWN, PADDING, TEXT, WRITTEN
from unimo.model.attention import (
    BASELINE,
    JOINT,
    PREFIX,
    UNDERSTANDING_AND_GENERATION,
    Plan,
    attend,
    with_padding_read,
)
from unimo.model.block_mask import BLOCK

TABLES = {
    "understanding and generation": UNDERSTANDING_AND_GENERATION,
    "baseline": BASELINE,
    "joint": JOINT,
    "prefix": PREFIX,
    "padding read": with_padding_read(UNDERSTANDING_AND_GENERATION),
}


def packed(sequences: list[list[tuple[int, int, int]]], table) -> Plan:
    """Sequences of (branch, role, tokens) side by side; words count on within their branch."""
    owner, branch, role, order = [], [], [], []
    for i, parts in enumerate(sequences):
        said: dict[int, int] = {}
        for b, r, n in parts:
            begins = said.get(b, 0) if r in (TEXT, KNOWN, WRITTEN, PADDING) else 0
            owner += [i] * n
            branch += [b] * n
            role += [r] * n
            order += range(begins, begins + n) if r not in (IMAGE, GROUND) else [0] * n
            said[b] = begins + n
    return Plan(*(torch.tensor(x) for x in (owner, role, order, branch)), table=table)


def drawn(seed: int) -> list[list[tuple[int, int, int]]]:
    """What a batch may hold: pairs, single texts and images, captions after tags, and texts that share an image."""
    generator = torch.Generator().manual_seed(seed)

    def n(high: int) -> int:
        return int(torch.randint(1, high, (), generator=generator))

    sequences = []
    for _ in range(12):
        kind = n(8)
        if kind < 3:
            sequences.append([(0, IMAGE, n(200)), (0, GROUND, n(60)), (0, TEXT, n(70))])
        elif kind == 3:
            sequences.append([(0, GROUND, n(50)), (0, TEXT, n(500))])
        elif kind == 4:
            sequences.append([(0, IMAGE, n(300)), (0, KNOWN, n(30)), (0, WRITTEN, n(400)), (0, PADDING, n(9))])
        elif kind == 5:
            texts = [part for b in range(1, 1 + n(9)) for part in ((b, KNOWN, n(9)), (b, WRITTEN, n(150)))]
            sequences.append([(0, IMAGE, n(200)), *texts])
        elif kind == 6:
            sequences.append([(0, IMAGE, n(150)), *((b, TEXT, n(90)) for b in range(1, 1 + n(12)))])
        else:
            sequences.append([(0, PADDING, n(40)), (0, TEXT, n(12)), (0, PADDING, n(6)), (0, TEXT, n(5))])
    return sequences


def shuffled(seed: int, lengths: list[int], table) -> Plan:
    """Every role, several branches and orders in no order at all."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    role, branch = (torch.randint(0, high, owner.shape, generator=generator) for high in (6, 3))
    return Plan(owner, role, torch.randint(-3, 6, owner.shape, generator=generator), branch, table=table)


def matrix(plan: Plan) -> Tensor:
    token = torch.arange(len(plan))
    return plan.allowed(token[:, None], token[None, :])


def shares(plan: Plan) -> Tensor:
    """(B, B) how many of a block's 128 x 128 pairs are allowed."""
    rest = -len(plan) % BLOCK
    allowed = torch.nn.functional.pad(matrix(plan).long(), (0, rest, 0, rest))
    return allowed.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).sum((1, 3))


def table_of(counts: Tensor, indices: Tensor) -> Tensor:
    """(B, B) bool of one of a mask's four lists; no block stands in it twice."""
    found = torch.zeros(indices.shape[2], indices.shape[2], dtype=torch.bool)
    for row, (count, columns) in enumerate(zip(counts[0, 0].tolist(), indices[0, 0].tolist())):
        assert len(set(columns[:count])) == count and columns[:count] == sorted(columns[:count])
        found[row, columns[:count]] = True
    return found


def lists(plan: Plan) -> tuple[Tensor, Tensor]:
    """(B, B) bool: blocks that are tested, and full ones; what is listed for keys is what is listed for queries."""
    mask = plan.block_mask
    tested, full = (
        table_of(mask.kv_num_blocks, mask.kv_indices),
        table_of(mask.full_kv_num_blocks, mask.full_kv_indices),
    )
    assert torch.equal(tested.T, table_of(mask.q_num_blocks, mask.q_indices))
    assert torch.equal(full.T, table_of(mask.full_q_num_blocks, mask.full_q_indices))
    assert not (tested & full).any()
    return tested, full


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("seed", range(5))
def test_blocks_of_packed_sequences_are_exactly_those_of_the_rule(seed, table):
    plan = packed(drawn(seed), TABLES[table])
    tested, full = lists(plan)
    allowed = shares(plan)
    assert torch.equal(full, allowed == BLOCK * BLOCK)
    assert torch.equal(tested | full, allowed > 0)


@pytest.mark.parametrize("seed", range(3))
def test_one_long_sequence_has_full_blocks_and_a_written_one_half_of_them(seed):
    lengths = torch.randint(300, 900, (3,), generator=torch.Generator().manual_seed(seed)).tolist()
    plan = packed([[(0, IMAGE, lengths[0])], [(0, WRITTEN, lengths[1])], [(0, TEXT, lengths[2])]], PREFIX)
    tested, full = lists(plan)
    allowed = shares(plan)
    assert torch.equal(full, allowed == BLOCK * BLOCK) and full.any()
    assert torch.equal(tested | full, allowed > 0)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("lengths", [[1], [128], [129], [5, 700, 3, 3, 200, 128, 1]], ids=str)
def test_in_no_order_at_all_nothing_that_is_seen_is_lost_and_nothing_forbidden_is_full(lengths, table):
    plan = shuffled(len(lengths), lengths, TABLES[table])
    tested, full = lists(plan)
    allowed = shares(plan)
    assert (allowed[full] == BLOCK * BLOCK).all()
    assert not allowed[~(tested | full)].any()


# ---- attention by these blocks ----


def by_blocks(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
    """What a kernel does with the lists: full blocks as they are, others by `mask_mod`, the rest never."""
    mask, rows = plan.block_mask, []
    for row in range(mask.kv_indices.shape[2]):
        mine = torch.arange(row * BLOCK, min((row + 1) * BLOCK, len(plan)))
        scores, values = [torch.zeros(len(mine), 0, dtype=q.dtype)], [v[:0]]
        for counts, indices, is_full in (
            (mask.kv_num_blocks, mask.kv_indices, False),
            (mask.full_kv_num_blocks, mask.full_kv_indices, True),
        ):
            for column in indices[0, 0, row, : int(counts[0, 0, row])].tolist():
                theirs = torch.arange(column * BLOCK, min((column + 1) * BLOCK, len(plan)))
                score = q[mine] @ k[theirs].T / q.shape[1] ** 0.5
                if not is_full:
                    allowed = mask.mask_mod(torch.tensor(0), torch.tensor(0), mine[:, None], theirs[None, :])
                    score = score.masked_fill(~allowed, -1e30)
                scores.append(score)
                values.append(v[theirs])
        rows.append(torch.cat(scores, 1).softmax(-1) @ torch.cat(values))
    return torch.cat(rows)


@pytest.mark.parametrize("table", TABLES)
def test_attention_by_blocks_equals_reference_in_value_and_gradient(table):
    plan = packed(drawn(7), TABLES[table])
    generator = torch.Generator().manual_seed(1)
    q, k, v, weight = (torch.randn(len(plan), 8, dtype=torch.float64, generator=generator) for _ in range(4))
    weight[~matrix(plan).any(1)] = 0  # nobody reads what sees nothing
    answers = []
    for form in (by_blocks, lambda q, k, v, plan: attend(q, k, v, plan, 1, form="reference")):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = form(*leaves, plan)
        (out * weight).sum().backward()
        answers.append([out.detach() * (weight != 0), *(x.grad for x in leaves)])
    for ours, expected in zip(*answers):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)


# ---- how large it is ----


class Largest(TorchDispatchMode):
    """The most elements that any tensor made meanwhile has, and those of all together."""

    def __init__(self):
        super().__init__()
        self.most, self.all = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(one, Tensor):
                self.most = max(self.most, one.untyped_storage().nbytes())
                self.all += one.untyped_storage().nbytes()
        return made


SHAPES = {  # sequences of the recipes: a pair of `base`, a passage, an image with its captions
    "pairs": [(0, IMAGE, 197), (0, GROUND, 100), (0, TEXT, 64)],
    "passages": [(0, GROUND, 100), (0, TEXT, 412)],
    "captions that share an image": [(0, IMAGE, 37), *((b, TEXT, 20) for b in range(1, 21))],
    "one image with thousands of captions": [(0, IMAGE, 37), *((b, TEXT, 20) for b in range(1, 4001))],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_case_size_grows_with_the_tokens(shape):
    parts = SHAPES[shape]
    length = sum(n for _, _, n in parts)
    bytes_of = {}
    for tokens in (25_000, 100_000):
        if len(parts) > 1000:
            plan = packed([parts[: 1 + (tokens - 37) // 20]], PREFIX)
        else:
            table = PREFIX if GROUND not in [role for _, role, _ in parts] else UNDERSTANDING_AND_GENERATION
            plan = packed([parts] * (tokens // length), table)
        with Largest() as made:
            mask = plan.block_mask
        assert made.most <= 32 * len(plan)  # a few numbers a token; the whole layout takes 9 bytes a pair
        assert made.all <= 100e6 * tokens / 100_000
        assert mask.kv_indices.shape[2] == -(-len(plan) // BLOCK)
        assert mask.kv_indices.shape[3] <= 12 and mask.full_kv_indices.shape[3] <= 12
        bytes_of[tokens] = made.all
    assert bytes_of[100_000] <= 4.4 * bytes_of[25_000]
