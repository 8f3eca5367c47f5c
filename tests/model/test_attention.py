"""Who may see whom is the specification's table, and every form of attention computes the same."""

from __future__ import annotations

import pytest
import torch
from tiny_unimo2 import as_batch, lively_model, no_texts, random_images
from torch import Tensor

from unimo.batch import GROUND, IMAGE, KNOWN, TEXT, WRITTEN
from unimo.model.attention import BASELINE, PREFIX, UNDERSTANDING_AND_GENERATION, Plan, attend

TABLES = {"understanding and generation": UNDERSTANDING_AND_GENERATION, "baseline": BASELINE}


def random_plan(seed: int, lengths: list[int], table, **options) -> Plan:
    """Sequences of these lengths with every role, several branches and shuffled orders."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    role, branch = (torch.randint(0, high, (tokens,), generator=generator) for high in (5, 3))
    order = torch.randint(0, 6, (tokens,), generator=generator)
    return Plan(owner, role, order, branch, table=table, **options)


def matrix(plan: Plan) -> Tensor:
    token = torch.arange(len(plan))
    return plan.allowed(token[:, None], token[None, :])


def plain_attention(q: Tensor, k: Tensor, v: Tensor, plan: Plan, heads: int) -> Tensor:
    """One query and one head at a time; what may not be seen is left out, not biased."""
    allowed = matrix(plan)
    out = torch.empty_like(q)
    size = q.shape[1] // heads
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(q)):
            seen = allowed[i]
            scores = k[seen, part] @ q[i, part] / size**0.5
            out[i, part] = scores.softmax(0) @ v[seen, part]
    return out


# ---- the rule ----


def blocks(*rows: str, sizes: tuple[int, ...]) -> Tensor:
    """A mask as it is drawn: 1 may see, 0 may not, c sees itself and the earlier ones."""
    made = []
    for row, height in zip(rows, sizes):
        parts = []
        for symbol, width in zip(row.split(), sizes):
            part = torch.ones(height, width) if symbol in "1c" else torch.zeros(height, width)
            parts.append(part.tril() if symbol == "c" else part)
        made.append(torch.cat(parts, 1))
    return torch.cat(made).bool()


@pytest.mark.parametrize(
    "table, roles, drawn",
    [
        ("understanding and generation", (IMAGE, GROUND, TEXT), ("1 1 0", "1 1 1", "0 1 1")),
        ("understanding and generation", (IMAGE, GROUND), ("1 1", "1 1")),
        ("understanding and generation", (GROUND, TEXT), ("1 1", "1 1")),
        ("understanding and generation", (IMAGE, GROUND, WRITTEN), ("1 1 0", "1 1 0", "1 1 c")),
        (
            "understanding and generation",
            (IMAGE, GROUND, KNOWN, WRITTEN),
            ("1 1 0 0", "1 1 0 0", "1 1 1 0", "1 1 1 c"),
        ),
        ("understanding and generation", (GROUND, KNOWN, WRITTEN), ("1 0 0", "1 1 0", "1 1 c")),
        ("baseline", (IMAGE, TEXT), ("1 1", "1 1")),
        ("baseline", (IMAGE, WRITTEN), ("1 0", "1 c")),
        ("baseline", (IMAGE, KNOWN, WRITTEN), ("1 0 0", "1 1 0", "1 1 c")),
    ],
)
def test_masks_are_those_of_the_specification(table, roles, drawn):
    sizes = (4, 2, 3, 5)[: len(roles)]
    role = torch.repeat_interleave(torch.tensor(roles), torch.tensor(sizes))
    plan = Plan(torch.zeros_like(role), role, torch.arange(len(role)), table=TABLES[table])
    assert torch.equal(matrix(plan), blocks(*drawn, sizes=sizes))


def test_sequences_and_branches_are_strangers():
    plan = random_plan(0, [5, 9, 7], UNDERSTANDING_AND_GENERATION)
    allowed = matrix(plan)
    assert allowed.any()
    assert not (allowed & (plan.owner[:, None] != plan.owner[None, :])).any()
    other_branch = (plan.branch[None, :] != 0) & (plan.branch[:, None] != plan.branch[None, :])
    assert other_branch.any() and not (allowed & other_branch).any()
    assert allowed.diagonal().all()  # nobody is left with nothing to see


# ---- the forms ----


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("waste", [0.0, 0.12, 0.5, 1.0])
@pytest.mark.parametrize("lengths", [[7], [1, 9, 3, 3, 8, 2], [6, 6, 6], [20, 19, 18, 2, 2, 5]], ids=str)
def test_dense_equals_reference_and_plain_in_value_and_gradient(lengths, waste, table):
    plan = random_plan(len(lengths), lengths, TABLES[table], waste=waste)
    generator = torch.Generator().manual_seed(1)
    q, k, v, weight = (torch.randn(len(plan), 8, dtype=torch.float64, generator=generator) for _ in range(4))
    answers = {}
    for form in ("dense", "reference", "plain"):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = plain_attention(*leaves, plan, 2) if form == "plain" else attend(*leaves, plan, 2, form=form)
        (out * weight).sum().backward()
        answers[form] = [out.detach(), *(x.grad for x in leaves)]
    for form in ("dense", "reference"):
        for ours, expected in zip(answers[form], answers["plain"]):
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("lengths", [[1, 9, 3], [60, 7, 90, 33]], ids=str)
def test_flex_equals_reference(lengths, table):
    plan = random_plan(7, lengths, TABLES[table])
    q, k, v = torch.randn(3, len(plan), 16, generator=torch.Generator().manual_seed(2))
    flex, reference = (attend(q, k, v, plan, 1, form=form) for form in ("flex", "reference"))
    torch.testing.assert_close(flex, reference, rtol=0, atol=2e-6)


def test_every_token_has_one_slot_and_waste_bounds_the_padding():
    for seed, waste in enumerate((0.0, 0.12, 0.5)):
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, 40, (30,), generator=generator).tolist()
        plan = random_plan(seed, lengths, UNDERSTANDING_AND_GENERATION, waste=waste)
        buckets, slots = plan.buckets
        assert len(slots.unique()) == len(plan)
        assert sum(bucket.n for bucket in buckets) >= len(lengths)  # some are rounded up
        laid_out = torch.cat(
            [
                bucket.start + torch.arange(bucket.n * bucket.length) if bucket.rows is None else bucket.rows
                for bucket in buckets
            ]
        )
        assert torch.equal(laid_out[slots], torch.arange(len(plan)))
        # Number and length of a bucket are each rounded up by less than a quarter.
        assert len(laid_out) * (1 - waste) <= len(plan) * 1.25**2


def test_equal_sequences_need_no_gathering():
    plan = random_plan(0, [6, 6, 6], UNDERSTANDING_AND_GENERATION)
    (bucket,), slots = Plan(plan.owner, plan.role, plan.order).buckets
    assert slots is None and bucket.rows is None and (bucket.n, bucket.length) == (3, 6)


def test_branches_are_laid_out_alone_and_look_back_at_what_they_share():
    """Two texts of 5 and one of 4 tokens beside 3 shared ones: rectangles of 3 x 3 and 3 x 5 by 3 + 5."""
    branch = torch.tensor([0] * 3 + [1] * 5 + [2] * 5 + [3] * 4)
    role = torch.where(branch == 0, IMAGE, TEXT)
    plan = Plan(torch.zeros_like(branch), role, torch.zeros_like(branch), branch, table=PREFIX)
    (shared, texts), _ = plan.buckets
    assert (shared.n, shared.length) == (1, 3) and shared.key_rows is None and shared.bias is None
    assert (texts.n, texts.length) == (3, 5) and texts.keys(torch.zeros(17, 1)).shape == (3, 8, 1)


def test_a_row_without_tokens():
    nothing = torch.zeros(0, dtype=torch.int64)
    plan, x = Plan(nothing, nothing, nothing), torch.zeros(0, 8)
    for form in ("dense", "reference", "flex"):
        assert attend(x, x, x, plan, 2, form=form).shape == (0, 8)
    assert lively_model().towers(as_batch(random_images(2), no_texts())).words.shape == (0, 16)
