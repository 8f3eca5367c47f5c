"""Numbered pieces of work, done here or by a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from unimo.errors import UsageError

Each = Callable[[Callable[[int], int], Iterable[int]], Iterable[int]]  # `map`, or `on_ray`


def on_ray(work: Callable[[int], int], numbers: Iterable[int]) -> Iterator[int]:
    """As `map`, in any order, by Ray Data on the cluster that ray finds (extra `ray`).

    Corpora and output folder must be named by absolute paths that are the same on every machine. The index of sentences
    is built where this is called and handed to each machine once.
    """
    try:
        import ray
    except ImportError:
        raise UsageError(
            "work on a cluster needs ray", where="--ray", do="pip install 'unimo[ray]', or leave --ray away"
        ) from None
    numbers = list(numbers)
    if not numbers:
        return
    held = ray.put(work)
    jobs = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
    for row in jobs.map(lambda row: {"number": ray.get(held)(row["number"])}).iter_rows():
        yield int(row["number"])
