"""Search in memory finds what double precision finds; every fast product is off by no more than the error it gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unimo.nearest import nearest
from unimo.retrieval import exact
from unimo.retrieval.exact import QuantizedRows, Vectors, in_half_precision


def of_length_one(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rows_and_queries(queries, spread, width=48):
    """1000 rows around one direction, each twice; and queries near some of them."""
    rng = np.random.default_rng(queries)
    rows = rng.normal(size=(1, width)) + spread * rng.normal(size=(1000, width))
    rows = of_length_one(np.concatenate([rows, rows])).astype(np.float16)
    asked = rows[rng.integers(0, 1000, queries)].astype(np.float64) + spread * rng.normal(size=(queries, width))
    return rows, of_length_one(asked)


@pytest.mark.parametrize("queries", [1, 3, 20])
@pytest.mark.parametrize("spread", [1.0, 0.01])
@pytest.mark.parametrize("int8", [True, False])
def test_vectors_in_memory_give_what_double_precision_gives(queries, spread, int8, monkeypatch):
    """At a spread of 0.01 half precision cannot tell most rows apart."""
    monkeypatch.setattr(exact, "_BLOCK", 700)
    monkeypatch.setattr(exact, "int8_is_faster", lambda: int8)
    rows, asked = rows_and_queries(queries, spread)
    scores = (asked @ rows.astype(np.float64).T).astype(np.float32)
    held = Vectors(7 + np.arange(2000), rows)
    for found, score in zip(held.nearest(asked, 10), scores, strict=True):
        assert found.tolist() == (7 + np.lexsort((np.arange(2000), -score))[:10]).tolist()


@pytest.mark.parametrize("queries", [1, 20])
@pytest.mark.parametrize("outlier", [1.0, 100.0])
def test_fast_products_are_off_by_no_more_than_they_say(queries, outlier):
    """Also where one column is far larger than the others, as in many encoders."""
    rows, asked = rows_and_queries(queries, 1.0)
    rows[:, 3] *= outlier
    rows = of_length_one(rows.astype(np.float64)).astype(np.float16)
    true = asked @ rows.astype(np.float64).T
    for products, errors in (in_half_precision(asked, rows), QuantizedRows(rows).multiply(asked, rows, 0)):
        off = np.abs(products - true).max(1)
        assert (off <= errors).all() and (errors < 0.2).all()


@pytest.mark.parametrize("levels", [127, 63])
def test_quantized_rows_are_the_nearest_whole_numbers(levels, monkeypatch):
    monkeypatch.setattr(exact, "_row_levels", lambda: levels)
    rows, asked = rows_and_queries(1, 1.0)
    held = QuantizedRows(rows)
    wide = rows.astype(np.float32)
    again = held.codes.numpy() * held.scales.numpy()[:, None]
    assert held.codes.abs().amax(1).eq(levels).all()
    assert (np.abs(again - wide) <= 0.5001 * held.scales.numpy()[:, None]).all()
    assert np.allclose(held.left_out, np.linalg.norm(wide - again, axis=1), atol=1e-6)
    products, _ = held.multiply(asked, rows[300:900], 300)
    assert np.array_equal(products, held.multiply(asked, rows, 0)[0][:, 300:900])


def test_a_row_of_zeros_is_at_no_distance_and_no_fault():
    rows = np.zeros((3, 8), np.float16)
    rows[1, 0] = 1
    products, errors = QuantizedRows(rows).multiply(np.eye(8)[:1], rows, 0)
    assert np.isfinite(products).all() and np.isfinite(errors).all()
    assert products[0].argmax() == 1


def test_a_product_that_leaves_too_many_rows_is_given_up_for_the_next():
    rng = np.random.default_rng(0)
    table, queries = rng.normal(size=(3000, 8)), rng.normal(size=(2, 8))
    asked = []

    def coarse(queries, rows, first):
        asked.append("coarse")
        return np.zeros((len(queries), len(rows)), np.float32), np.full(len(queries), 100.0)

    def fine(queries, rows, first):
        asked.append(first)
        return (queries @ rows.T).astype(np.float32), np.full(len(queries), 1e-5)

    found = nearest(queries, [table[:2000], table[2000:]], 5, multiply=[coarse, fine])
    assert asked == ["coarse", 0, "coarse", 2000]
    assert [numbers.tolist() for numbers, _ in found] == [np.argsort(-q)[:5].tolist() for q in queries @ table.T]


def test_products_of_int8_are_exact_at_the_levels_chosen():
    """Whatever way this processor takes: one query or several, summed over more than a register holds."""
    drawn, levels = torch.Generator().manual_seed(0), exact._row_levels()
    queries = torch.randint(-127, 128, (33, 2048), dtype=torch.int8, generator=drawn)
    rows = torch.randint(-levels, levels + 1, (40, 2048), dtype=torch.int8, generator=drawn)
    rows[0], queries[0] = levels, 127
    for some in (queries[:1], queries[:5], queries):
        assert torch.equal(torch._int_mm(some, rows.T).long(), some.long() @ rows.long().T)


def test_where_sums_of_int8_stop_at_16_bits_rows_have_seven(monkeypatch):
    """A byte is moved to 0..255 there, and two products are added at a time."""

    def saturating(queries, rows_turned):
        moved, rows = queries.long() + 128, rows_turned.T.long()
        pairs = (moved[:, None] * rows).unflatten(-1, (-1, 2)).sum(-1).clamp(-32768, 32767).sum(-1)
        return (pairs - 128 * rows.sum(-1)).int()

    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert exact._row_levels.__wrapped__() == 63
    monkeypatch.setattr(exact, "_row_levels", lambda: 63)
    rows, asked = rows_and_queries(3, 1.0)
    products, errors = QuantizedRows(rows).multiply(asked, rows, 0)
    assert (np.abs(products - asked @ rows.astype(np.float64).T).max(1) <= errors).all()
