"""The queue in front of the model: what is joined, in which order, and what a bad row or a lost client costs others."""

from __future__ import annotations

import asyncio
import threading

import pytest

from unimo.serve.batching import Batcher, Busy


class Model:
    """Doubles numbers, and remembers its passes; 13 is no number."""

    def __init__(self):
        self.passes, self.go = [], threading.Event()
        self.go.set()

    def __call__(self, rows):
        self.go.wait()
        self.passes.append(list(rows))
        if 13 in rows:
            raise ValueError("13")
        return [2 * row for row in rows]


@pytest.fixture
def model():
    return Model()


def ask(model, *jobs, **options):
    """Jobs (key, rows), queued while the model is busy with another; their answers or errors."""

    async def all_of_them():
        batcher = Batcher(**options)
        try:
            model.go.clear()
            first = asyncio.ensure_future(batcher.submit("first", model, [0]))
            while batcher.waiting:  # until it is in its pass
                await asyncio.sleep(0.001)
            asked = [asyncio.ensure_future(batcher.submit(key, model, rows)) for key, rows in jobs]
            await asyncio.sleep(0)
            model.go.set()
            await first
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            model.go.set()
            await batcher.close()

    found = asyncio.run(all_of_them())
    assert model.passes.pop(0) == [0]
    return found


def test_what_waits_with_one_key_is_one_pass_in_order_of_arrival(model):
    assert ask(model, ("a", [1, 2]), ("b", [3]), ("a", [4]), wait=0) == [[2, 4], [6], [8]]
    assert model.passes == [[1, 2, 4], [3]]


def test_a_pass_has_at_most_so_many_rows_and_a_large_job_is_one_of_its_own(model):
    ask(model, *[("a", [i, i]) for i in range(1, 4)], ("a", list(range(20, 27))), wait=0, max_batch=4)
    assert model.passes == [[1, 1, 2, 2], [3, 3], list(range(20, 27))]


def test_a_bad_row_fails_alone(model):
    good, bad, other = ask(model, ("a", [1]), ("a", [13]), ("a", [2]), wait=0)
    assert (good, other) == ([2], [4]) and isinstance(bad, ValueError)


def test_the_first_waits_for_company(model):
    async def two():
        batcher = Batcher(wait=30, max_batch=2)
        try:
            return await asyncio.gather(batcher.submit("a", model, [1]), batcher.submit("a", model, [2]))
        finally:
            await batcher.close()

    assert asyncio.run(two()) == [[2], [4]] and model.passes == [[1, 2]]


def test_too_many_rows_are_refused_and_who_has_left_is_not_answered(model):
    async def crowd():
        batcher = Batcher(wait=0, max_waiting=4)
        try:
            model.go.clear()
            first = asyncio.ensure_future(batcher.submit("first", model, [0]))
            while batcher.waiting:
                await asyncio.sleep(0.001)
            waiting = asyncio.ensure_future(batcher.submit("a", model, [1, 2, 3]))
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                await batcher.submit("a", model, [4, 5])
            waiting.cancel()
            await asyncio.sleep(0)
            model.go.set()
            await first
            return await batcher.alone(lambda: "next")
        finally:
            model.go.set()
            await batcher.close()

    assert asyncio.run(crowd()) == "next" and model.passes == [[0]]


def test_a_closed_queue_takes_nothing(model):
    async def late():
        batcher = Batcher()
        await batcher.close()
        with pytest.raises(Busy):
            await batcher.submit("a", model, [1])

    asyncio.run(late())
