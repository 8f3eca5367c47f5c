"""Exact search among vectors in memory: fast products tell which rows can be near, double precision which are.

    n rows · Q queries · D width

The rows are held twice: in float16, and quantized to int8 where this processor multiplies those faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from unimo.nearest import Products, nearest, rounding_error

UNIT_TOLERANCE = 0.01  # float16 moves a length by 0.001 at most
_BLOCK, _WIDENED = 16384, 512  # rows of a product; of those in single precision at once, for a cache


class Vectors:
    """Rows of an index. ids: (n,) of their rows in the table, ascending; rows: (n, D) float16 of length 1."""

    def __init__(self, ids: np.ndarray, rows: np.ndarray):
        self.ids, self.rows = ids, rows
        self._quantized = QuantizedRows(rows) if int8_is_faster() else None

    def nearest(self, queries: np.ndarray, k: int) -> list[np.ndarray]:
        """For each query (Q, D) of length 1 the ids of the k nearest rows, best first; of equal rows the first."""
        blocks = (self.rows[i : i + _BLOCK] for i in range(0, len(self.rows), _BLOCK))
        products = [*([self._quantized.multiply] if self._quantized else []), in_half_precision]
        return [self.ids[numbers] for numbers, _ in nearest(queries, blocks, k, multiply=products)]


class QuantizedRows:
    """Rows (n, D) as whole numbers, each row with a scale of its own.

    codes: (n, D) int8; scales: (n,) float32; left_out: (n,) float32, the length of what rounding left out.
    """

    def __init__(self, rows: np.ndarray):
        levels = _row_levels()
        self.codes = torch.empty(rows.shape, dtype=torch.int8)
        self.scales, self.left_out = torch.empty(len(rows)), np.empty(len(rows), np.float32)
        for first in range(0, len(rows), _WIDENED):
            some = slice(first, first + _WIDENED)
            self.codes[some], self.scales[some], lost = _quantized(torch.from_numpy(rows[some]).float(), levels)
            self.left_out[some] = lost.numpy()

    def multiply(self, queries: np.ndarray, rows: np.ndarray, first: int) -> Products:
        """Products of whole numbers with the rows from number `first` on; the queries are quantized too.

        Their error is what rounding left out, by its length: of the row, multiplied with the query as it was rounded;
        and of the query, with the row. The sums themselves are exact.
        """
        some = slice(first, first + len(rows))
        codes, scales, left_out = _quantized(torch.from_numpy(queries), 127)
        sums = torch._int_mm(codes, self.codes[some].T).float()
        products = sums.mul_(self.scales[some]).mul_(scales.float()[:, None]).numpy()
        of_queries = left_out.numpy() * (1 + UNIT_TOLERANCE)
        of_rows = (np.linalg.norm(queries, axis=1) + left_out.numpy()) * self.left_out[some].max()
        return products, 1.001 * (of_rows + of_queries) + rounding_error(queries, 1 + UNIT_TOLERANCE)


def _quantized(numbers: torch.Tensor, levels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes (n, D) int8, scales (n,), and the lengths (n,) of what codes times scales leave out."""
    scales = numbers.abs().amax(1).clamp_(min=1e-30) / levels
    rounded = (numbers / scales[:, None]).round_()
    return rounded.to(torch.int8), scales, (numbers - rounded * scales[:, None]).norm(dim=1)


@cache
def _row_levels() -> int:
    """127; 63 where the sums would not be exact: processors without instructions for int8 add two products in 16 bits,
    which end at 32,767."""
    full = torch.full((32, 128), 127, dtype=torch.int8)
    exact = all((torch._int_mm(full[:n], full.T) == 128 * 127**2).all() for n in (1, 32))
    return 127 if exact else 63


@cache
def int8_is_faster(n: int = 4096, width: int = 768) -> bool:
    """Whether this processor multiplies rows of int8 faster than rows of float16, measured in 10 ms."""
    half, whole = torch.ones(n, width, dtype=torch.float16), torch.ones(n, width, dtype=torch.int8)

    def seconds(product: Callable[..., object], *given: torch.Tensor) -> float:
        best = float("inf")
        for _ in range(4):
            began = time.process_time()
            product(*given)
            best = min(best, time.process_time() - began)
        return best

    return seconds(torch._int_mm, whole[:1], whole.T) < seconds(torch.mv, half, half[0])


def in_half_precision(queries: np.ndarray, rows: np.ndarray, first: int = 0, few: int = 8) -> Products:
    """Products with float16 rows of length 1 as they lie there: half the memory is read, and memory is what one query
    waits for. Of many queries, where it is multiplying, in single precision.

    Its error is what rounding the query leaves out, by its length; that of the products' own rounding to 11 bits; and
    that of sums in single precision.
    """
    half = torch.from_numpy(rows)
    errors = rounding_error(queries, 1 + UNIT_TOLERANCE)
    if len(queries) < few:
        rounded = queries.astype(np.float16)
        lost = np.linalg.norm(queries - rounded, axis=1) + np.linalg.norm(queries, axis=1) * 2.0**-11
        products = [(half @ torch.from_numpy(query)).float() for query in rounded]
        return torch.stack(products).numpy(), errors + (1 + UNIT_TOLERANCE) * lost
    single, products_of = torch.from_numpy(queries.astype(np.float32)), torch.empty(len(queries), len(rows))
    wide = torch.empty(min(_WIDENED, len(rows)), rows.shape[1])
    for i in range(0, len(rows), _WIDENED):
        some = half[i : i + _WIDENED]
        products_of[:, i : i + len(some)] = single @ wide[: len(some)].copy_(some).T
    return products_of.numpy(), errors
