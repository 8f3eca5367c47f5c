"""Numbers of reports as text."""

from __future__ import annotations

import math
import pickle

import pytest

from unimo.errors import DataError
from unimo.formatting import markdown_table, number, with_interval


@pytest.mark.parametrize(
    ("value", "unit", "signed", "text"),
    [
        (0.62149, "%", False, "62.1 %"), (0.004, "%", True, "+0.4 %"), (-0.25, "%", True, "-25.0 %"),
        (3, "", False, "3"), (12345.6, "", False, "12,346"), (0.5, "", False, "0.5000"), (2e-5, "", False, "2e-05"),
        (1.5, "bits", True, "+1.500 bits"), (math.nan, "%", False, "undefined"), (None, "", False, "undefined"),
    ],
)  # fmt: skip
def test_four_digits_or_per_cent_with_one(value, unit, signed, text):
    assert number(value, unit, signed=signed) == text


def test_a_score_stands_with_its_interval_where_it_has_one():
    score = {"value": 0.6, "low": 0.55, "high": 0.65}
    assert with_interval(score, "%") == "60.0 % [55.0, 65.0]"
    assert with_interval({**score, "low": None}, "%") == with_interval({"value": 0.6}, "%") == "60.0 %"
    assert with_interval({"value": -0.1, "low": -0.2, "high": 0.05}, signed=True) == "-0.1000 [-0.2000, +0.05000]"
    assert with_interval(None, "%") == with_interval({**score, "value": math.nan}) == "undefined"


def test_a_cell_cannot_end_its_table():
    assert markdown_table(["a|b", "c"], ["x\ny", ""]) == ["| a\\|b | c |", "| --- | --- |", "| x y |  |"]


def test_an_error_tells_another_librarys_exception_in_one_line_and_travels():
    error = DataError("cannot", got=OSError("no such\nthing"))
    assert error.got == "OSError: no such" and pickle.loads(pickle.dumps(error)).one_line() == error.one_line()
    assert DataError("cannot", got=KeyError()).got == "KeyError"
