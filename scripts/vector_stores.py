"""LanceDB, usearch and faiss as the store of a search index, on what `unimo index` does.

    pip install lancedb usearch faiss-cpu; python scripts/vector_stores.py results/vector-stores.json   # two minutes

20,000 clustered vectors of 192 numbers, half of them of kind "image", each with a key and a text: written in five
appends, then 1,000 more; 200 queries for the ten nearest of one kind. usearch and faiss hold vectors alone: their
keys, texts and kinds would need a file beside them, which is neither timed nor counted here.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

N, WIDTH, MORE, QUERIES, K, SEED = 20_000, 192, 1_000, 200, 10, 0


def clustered(n: int, rng: np.random.Generator, centers: np.ndarray) -> np.ndarray:
    rows = centers[rng.integers(len(centers), size=n)] + 0.5 * rng.normal(size=(n, WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Lance:
    """One table: vectors beside key, text and kind."""

    name = "lancedb"

    def __init__(self, folder: Path):
        import lancedb

        self.folder, self.database = folder, lancedb.connect(str(folder))
        if "rows" in self.database.list_tables().tables:
            self.table = self.database.open_table("rows")

    def append(self, first: int, rows: np.ndarray) -> None:
        import pyarrow as pa

        numbers = range(first, first + len(rows))
        columns = {
            "kind": ["image" if i % 2 else "text" for i in numbers],
            "key": [f"{i}.png" for i in numbers],
            "text": [f"a caption of some words with the number {i}" for i in numbers],
            "number": list(numbers),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), WIDTH),
        }
        if first:
            self.table.add(pa.table(columns))
        else:
            self.table = self.database.create_table("rows", pa.table(columns))

    def build_approximate(self) -> None:
        self.table.create_index(metric="dot", vector_column_name="vector", index_type="IVF_FLAT", num_partitions=140)

    def search(self, query: np.ndarray, approximate: bool) -> np.ndarray:
        search = (
            self.table.search(query).distance_type("dot").where("kind = 'image'", prefilter=True).select(["number"])
        )
        search = search.nprobes(10) if approximate else search.bypass_vector_index()
        return search.limit(K).to_arrow()["number"].to_numpy()

    def count(self) -> int:
        return self.table.count_rows()


class Faiss:
    """One file of vectors, written anew as a whole at each append."""

    name = "faiss"

    def __init__(self, folder: Path):
        import faiss

        faiss.omp_set_num_threads(1)
        self.faiss, self.path = faiss, folder / "index.faiss"
        folder.mkdir(exist_ok=True)
        self.index = faiss.read_index(str(self.path)) if self.path.exists() else faiss.IndexFlatIP(WIDTH)

    def append(self, first: int, rows: np.ndarray) -> None:
        self.index.add(rows)
        self.faiss.write_index(self.index, str(self.path))

    def build_approximate(self) -> None:
        rows = self.index.reconstruct_n(0, self.index.ntotal)
        self.index = self.faiss.index_factory(WIDTH, "IVF140,Flat", self.faiss.METRIC_INNER_PRODUCT)
        self.index.train(rows)
        self.index.add(rows)
        self.faiss.write_index(self.index, str(self.path))

    def search(self, query: np.ndarray, approximate: bool) -> np.ndarray:
        images = self.faiss.IDSelectorBatch(np.arange(1, self.index.ntotal, 2))
        kind = self.faiss.SearchParametersIVF if approximate else self.faiss.SearchParameters
        options = kind(sel=images, nprobe=10) if approximate else kind(sel=images)
        return self.index.search(query[None], K, params=options)[1][0]

    def count(self) -> int:
        return self.index.ntotal


class Usearch:
    """One file of vectors with their graph, written anew at each append. It cannot filter: one file for each kind."""

    name = "usearch"

    def __init__(self, folder: Path):
        from usearch.index import Index

        self.path = folder / "index.usearch"
        folder.mkdir(exist_ok=True)
        self.index = Index(ndim=WIDTH, metric="ip", dtype="f32")
        if self.path.exists():
            self.index.load(str(self.path))

    def append(self, first: int, rows: np.ndarray) -> None:
        numbers = np.arange(first, first + len(rows))
        self.index.add(numbers[numbers % 2 == 1], rows[numbers % 2 == 1], threads=1)
        self.index.save(str(self.path))

    def build_approximate(self) -> None:
        """Its only form."""

    def search(self, query: np.ndarray, approximate: bool) -> np.ndarray:
        return self.index.search(query, K, exact=not approximate, threads=1).keys

    def count(self) -> int:
        return len(self.index)


def timed(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def read_again_and_again(store: type, folder: Path, ready, stop, results) -> None:
    """A reader in a process of its own: how often it opened the store, how often that failed or gave fewer rows."""
    opened = failed = largest = backwards = 0
    reasons: set[str] = set()
    while not stop.is_set():
        try:
            n = store(folder).count()
            backwards += n < largest
            largest = max(n, largest)
        except Exception as error:
            failed += 1
            reasons.add(type(error).__name__ + ": " + " ".join(str(error).split())[-90:])
        opened += 1
        ready.set()
    results.put(
        {
            "opened": opened,
            "failed": failed,
            "fewer_rows_than_before": backwards,
            "rows_at_the_end": largest,
            "reasons": sorted(reasons)[:3],
        }
    )


def append_for_ever(store: type, folder: Path, rows: np.ndarray, first: int) -> None:
    opened = store(folder)
    while True:
        opened.append(first, rows)
        first += len(rows)


def measure(store: type, folder: Path, rows: np.ndarray, more: np.ndarray, queries: np.ndarray) -> dict[str, object]:
    opened = store(folder)
    fifth = N // 5
    found: dict[str, object] = {"version": version("faiss-cpu" if store is Faiss else store.name)}
    found["build_s"] = timed(lambda: [opened.append(i, rows[i : i + fifth]) for i in range(0, N, fifth)])
    found["append_1000_s"] = timed(lambda: opened.append(N, more))
    found["bytes_a_row"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / (N + MORE)
    every = np.concatenate([rows, more]).astype(np.float64)
    images = np.arange(1, len(every), 2)
    truth = [set(images[np.argsort(-(every[images] @ query))[:K]]) for query in queries.astype(np.float64)]
    for name in ("exact", "approximate"):
        if name == "approximate":
            found["approximate_build_s"] = timed(opened.build_approximate)
        opened.search(queries[0], name == "approximate")
        began = time.perf_counter()
        answers = [opened.search(query, name == "approximate") for query in queries]
        found[f"{name}_ms"] = 1000 * (time.perf_counter() - began) / len(queries)
        found[f"{name}_recall"] = float(np.mean([len(truth[i] & set(a.tolist())) / K for i, a in enumerate(answers)]))
    spawn = multiprocessing.get_context("spawn")
    ready, stop, results = spawn.Event(), spawn.Event(), spawn.Queue()
    reader = spawn.Process(target=read_again_and_again, args=(store, folder, ready, stop, results))
    reader.start()
    ready.wait()
    for i in range(20):
        opened.append(N + MORE + i * MORE, more)
        time.sleep(0.2)
    stop.set()
    found["reader_beside_a_writer"] = results.get(timeout=60)
    reader.join()
    unusable = 0
    for seed in range(5):  # killed while it appends: does it open again?
        copy = folder.with_name(f"{folder.name}-killed-{seed}")
        shutil.copytree(folder, copy)
        writer = spawn.Process(target=append_for_ever, args=(store, copy, more, 10**6))
        writer.start()
        time.sleep(3 + 0.13 * seed)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        try:
            store(copy).search(queries[0], True)
        except Exception:
            unusable += 1
        shutil.rmtree(copy)
    found["unusable_after_5_kills"] = unusable
    return found


def main(out: str) -> None:
    rng = np.random.default_rng(SEED)
    centers = rng.normal(size=(200, WIDTH))
    rows, more, queries = (clustered(n, rng, centers) for n in (N, MORE, QUERIES))
    with tempfile.TemporaryDirectory() as folder:
        stores = {s.name: measure(s, Path(folder) / s.name, rows, more, queries) for s in (Lance, Usearch, Faiss)}
    facts = {"rows": N, "width": WIDTH, "appended": MORE, "queries": QUERIES, "k": K, "seed": SEED}
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "bytes_of_a_vector": 4 * WIDTH}
    Path(out).write_text(json.dumps({"facts": facts, "machine": machine, "stores": stores}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
