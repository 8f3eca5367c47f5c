"""What stands beside the model: a collection to search, its dictionary entries, example images, evaluated runs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from unimo.checkpoint import latest
from unimo.data.regions import ImageRegions
from unimo.errors import DataError, UnimoError, UsageError
from unimo.evaluation.compare import REPORT, Tables, compare_tables
from unimo.evaluation.zero_shot.context import EvalContext
from unimo.evaluation.zero_shot.dictionary import DictionaryUse
from unimo.html_pages import thumbnail
from unimo.inference import Pipeline
from unimo.retrieval import Hit, Index, build_index, open_index, store
from unimo.serve import schemas

Say = Callable[[str], None]
ENTRIES, PAIRS = 24, 256  # of the dictionary that are shown, and pairs whose votes are counted
EXAMPLES = 6
PAGE = "report.html"


@dataclass(frozen=True)
class Example:
    """An image to try. credit: its author's terms, or "". regions: what UNIMO reads of it."""

    data: bytes
    title: str
    credit: str = ""
    regions: ImageRegions | None = None


@dataclass(frozen=True)
class ImageCollection:
    """A search index and what the page shows of it. dictionary: its most used entries, or None."""

    index: Index
    dictionary: schemas.Dictionary | None = None
    examples: list[Example] = field(default_factory=list)

    def thumbnails(self, hits: Sequence[Hit]) -> list[str | None]:
        """The image of each hit as a data URI; None for a text alone, and where it is gone."""
        found: list[str | None] = []
        for hit in hits:
            found.append(None)
            with contextlib.suppress(DataError):
                if (data := self.index.image_bytes(hit)) is not None:
                    found[-1] = thumbnail(data, side=240).uri
        return found


def open_collection(folder: str | Path, pipeline: Pipeline, say: Say) -> ImageCollection:
    """An index with this model, checked. Raises what `open_index` does: an index of other weights is a WeightsError."""
    index = open_index(folder, model=pipeline)
    assert index.model is pipeline  # the weights are compared here
    pairs = [path for entry in index.header["data"] if entry["kind"] == "pairs" for path in entry["paths"]]
    if pairs and pipeline.model.dictionary is not None:
        say(f"counting the dictionary's votes over {PAIRS} pairs at most ...")
    return ImageCollection(index, _dictionary(pipeline, pairs, index), _examples(index))


def demo_collection(pipeline: Pipeline, folder: Path, say: Say) -> ImageCollection | None:
    """An index of the held-out pairs of the generated world a run was trained on, made in `folder`; None without."""
    match pipeline.facts.get("settings"):
        case {"data": {"pairs": [str(pairs)], **data}} if (heldout := Path(pairs).parent / "heldout").is_dir():
            regions = data.get("regions")
        case _:
            return None
    options: dict[str, Any] = {"pairs": heldout, "index_dir": folder, "say": lambda line: None}
    options["regions"] = [*map(str, regions)] if isinstance(regions, (list, tuple)) else ()
    try:
        build_index(pipeline, folder / "index", **options)
        say(f"{heldout}: indexed to be searched")
        return open_collection(folder / "index", pipeline, say)
    except UnimoError as error:  # lancedb is not installed, a full disk: the rest can be served
        say(f"nothing to search: {error}")
        return None


def _dictionary(pipeline: Pipeline, pairs: list[str], index: Index) -> schemas.Dictionary | None:
    if not pairs or pipeline.model.dictionary is None:
        return None
    index_dir = next((entry["index_dir"] for entry in index.header["data"] if entry["kind"] == "pairs"), None)
    task = DictionaryUse(pairs=tuple(pairs), limit=PAIRS, show_entries=ENTRIES)
    use = task.predict(EvalContext(pipeline, index_dir=index_dir))
    shown = [
        schemas.Entry(number=one.number, chosen=one.chosen, patches=thumbnail(one.patches).uri, words=one.words)
        for one in use.shown
        if one.chosen
    ]
    report = use.reports["pairs"]
    counted = report["choices"] // pipeline.model.dictionary.chosen
    return schemas.Dictionary(size=use.entries, pairs=counted, entries=shown, **report)


def _examples(index: Index) -> list[Example]:
    """The first images of an index."""
    rows = index.table.search().where(store.of("image")).limit(EXAMPLES).to_list()
    found = []
    for row in rows:
        hit = Hit(0, "image", row["key"], row["path"], None, "", 0, 0, 0.0, row["data"], row["item"])
        with contextlib.suppress(DataError):
            data = index.image_bytes(hit)
            if data is not None and len(data) < 1_000_000:
                found.append(Example(data, hit.key, regions=index.regions(hit)))
    return found


def photographs() -> list[Example]:
    """The photographs that ship with the package, each with its licence (examples/ATTRIBUTION.md)."""
    folder = resources.files("unimo.serve") / "examples"
    rows = re.findall(r"^\| `(\S+)` \| (.+?) \| (.+?) \|", (folder / "ATTRIBUTION.md").read_text(), re.MULTILINE)
    return [Example((folder / name).read_bytes(), title, credit) for name, title, credit in rows]


# ---- runs


@dataclass(frozen=True)
class Runs:
    """Evaluated runs by name. Only these are ever read: no request names a path."""

    folders: dict[str, Path]

    @classmethod
    def beside(cls, run: Path) -> Runs:
        """A run and its neighbours, newest first, those that have scores."""
        found = [each.parent for each in run.resolve().parent.glob(f"*/{REPORT}")]
        found.sort(key=lambda folder: (folder != run.resolve(), -(folder / REPORT).stat().st_mtime))
        return cls({folder.name: folder for folder in found[:50]})

    def reports(self) -> list[str]:
        return [name for name, folder in self.folders.items() if (folder / PAGE).is_file()]

    def report(self, name: str) -> str:
        return (self.folders[name] / PAGE).read_text("utf-8", "replace")

    def score_tables(self, names: Sequence[str]) -> Tables:
        """The first run and the others beside it; one run is shown alone."""
        folders = [self.folders[name] for name in names]
        if len(names) > 1:
            return compare_tables(folders)
        scores = [row[:2] for row in compare_tables(folders * 2, baselines=True).scores]
        return Tables([], [], [["score", *names], *scores[1:]])


def newest_run(folder: Path = Path("runs")) -> Path:
    """The run that changed last among those in a folder; UsageError if there is none."""
    begun = [each.parent for each in folder.glob("*/settings.json")]
    for run in sorted(begun, key=lambda each: -(each / "settings.json").stat().st_mtime):
        if any(latest(run / name) is not None for name in ("best", "checkpoints")):
            return run
    what, do = "no model was named, and there is no run here", "name one, or make the demo: unimo pretrain scenes"
    raise UsageError(what, where=folder.absolute(), expected="a run, a saved folder or a name on the hub", do=do)
