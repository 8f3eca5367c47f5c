"""Regions that a detector elsewhere has written: bottom-up attention as published, and arrays in NPZ, HDF5 or LMDB.

R regions · F features · K classes
"""

from __future__ import annotations

import hashlib
import io
import re
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unimo.corpus import released_lines
from unimo.corpus.corpus import Corpus
from unimo.corpus.finding import IMAGE_SUFFIXES
from unimo.data import regions as tables
from unimo.errors import DataError
from unimo.extras import optional
from unimo.file_access import read_file
from unimo.formats.line_file import Line, LineFile
from unimo.regions.source import CorpusImage, Detections, RegionSource, Say, arrays_digest


class Files(RegionSource):
    """Regions that were found elsewhere, by image.

    A stored name fits the key that is the same but for the image's ending, or else the key's last part, behind its
    folders. Of rows that repeat an image the first counts. feature_size: F, or None: as in the first valid record.
    source: the name of the form.
    """

    source: str
    feature_size, classes = 0, 0

    def __init__(self, place: str, feature_size: int | None = None):
        self._places: dict[str, Any] = {}
        self.repeated: Counter[str] = Counter()
        self._shared: set[str] = set()  # names that fit several images
        for name, record in self.names(place):
            stem = _stem(name)
            self.repeated[stem] += stem in self._places
            self._places.setdefault(stem, record)
        if not self._places:
            raise DataError("no regions in these files", where=f"{self.source}:{place}", expected="one for each image")
        self.feature_size = feature_size or 0
        self._sample = first = self._first_valid()
        self.feature_size = feature_size or np.shape(first["features"])[-1]
        self.classes = 0 if first.get("classes") is None else np.shape(first["classes"])[-1]

    def identity(self) -> dict[str, Any]:
        """Their content is too large to be hashed at every start: their images, and one of them, stand for it."""
        names = hashlib.sha256("\n".join(sorted(self._places)).encode("utf-8", "replace")).hexdigest()
        digest = arrays_digest({name: np.asarray(value) for name, value in self._sample.items() if value is not None})
        return {"source": self.source, "names": names, "first": digest}

    def _first_valid(self) -> dict[str, Any]:
        """The first record that can be read: it says how many features and classes all others have."""
        error: DataError | None = None
        for name in self._places:
            try:
                record = self.read(name)
                if np.ndim(record["features"]) == 2 and np.size(record["features"]):
                    return record
            except DataError as fault:
                error = error or fault
        raise error or DataError("not one record has features", where=self.source)

    def fit(self, corpus: Corpus, folder: Path, say: Say) -> None:
        self._shared = self._names_of_several(corpus)
        if twice := +self.repeated:
            some = ", ".join(list(twice)[:3])
            say(f"{sum(twice.values())} rows repeat an image and are left out, among them {some}")

    def regions(self, image: CorpusImage) -> Detections:
        name = self._stored(image.key)
        if name is None:
            raise DataError("the file has no regions of this image", where=image.key, got="no such name")
        if name in self._shared:
            raise DataError(
                "several images would take the regions of one name",
                where=image.key,
                got=f"the stored name {name}",
                expected="a name for each image, such as its whole key",
                do="prepare the shards one by one, each with a file of its own",
            )
        return detections(self.read(name), image.size, where=f"{self.source}, {name}")

    def names_of(self, key: str) -> list[str]:
        """What an image may be called here, by its key without ending; the first that is there counts."""
        return [key, key.rpartition("/")[2]]

    def _stored(self, key: str) -> str | None:
        return next((each for each in self.names_of(_stem(key)) if each in self._places), None)

    def _names_of_several(self, corpus: Corpus) -> set[str]:
        """Stored names that fit different images."""
        images: defaultdict[str | None, set[bytes]] = defaultdict(set)
        for key, digest in zip(corpus.keys, corpus.image_sha256):
            images[self._stored(key)].add(digest.tobytes())
        return {name for name, some in images.items() if name is not None and len(some) > 1}

    @abstractmethod
    def names(self, place: str) -> Iterator[tuple[str, Any]]:
        """Every record's image, and what `read` finds it by."""

    @abstractmethod
    def read(self, name: str) -> dict[str, Any]:
        """Arrays under the names of `detections`."""


# Each array under the names that published files give it.
ARRAYS = {
    "features": ("features", "x", "feat", "image_features"),
    "boxes": ("boxes", "bbox", "image_bb"),
    "fractions": ("norm_bb",),  # UNITER's: corners as fractions of the image, then width, height and area
    "classes": ("classes", "soft_labels", "cls_prob", "class_probabilities"),
    "width": ("width", "image_w", "image_width"),
    "height": ("height", "image_h", "image_height"),
}


def named_arrays(stored: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Arrays of any published naming under ours."""
    found = {ours: next((stored[name] for name in theirs if name in stored), None) for ours, theirs in ARRAYS.items()}
    if found["features"] is None or (found["boxes"] is None and found["fractions"] is None):
        expected = f"{' or '.join(ARRAYS['features'])}; {' or '.join(ARRAYS['boxes'] + ARRAYS['fractions'])}"
        raise DataError("no regions in this record", where=where, got=", ".join(stored), expected=expected)
    return found


def detections(arrays: Mapping[str, Any], size: tuple[int, int], *, where: object) -> Detections:
    """Named arrays as detections. size: (width, height) of the corpus' image.

    The detector may have seen the image in another size, but not the other way round: two of the published readers
    disagree about which column is the width (§6.6). Raises DataError then, and for sizes that are no numbers.
    """
    try:
        width, height = (
            float(actual if stored is None else np.asarray(stored).reshape(()))
            for stored, actual in ((arrays.get("width"), size[0]), (arrays.get("height"), size[1]))
        )
        boxes = arrays.get("boxes")
        if boxes is None:
            boxes = np.asarray(arrays["fractions"], np.float64)[:, :4] * [width, height, width, height]
    except (TypeError, ValueError, IndexError) as fault:
        raise DataError("sizes or boxes that are no numbers", where=where, got=fault) from fault
    if (width, height) == size[::-1] != size:
        raise DataError(
            "width and height have changed places",
            where=where,
            got=f"{width:g} x {height:g}",
            expected=f"{size[0]} x {size[1]}, as the image is",
            do="exchange the two columns of the file",
        )
    classes = arrays.get("classes")
    return Detections(
        np.asarray(arrays["features"]),
        np.asarray(boxes),
        width,
        height,
        None if classes is None else np.asarray(classes),
    )


class TSV(Files):
    """Bottom-up attention as published: a row of 6 or 7 columns for each image (§6.11); also packed, .tsv.gz.

    name, width, height, number of boxes, then in base64 of little-endian float32: boxes (R, 4), features (R, F), and,
    where they were kept, class probabilities (R, K).
    """

    source = "tsv"

    def names(self, place: str) -> Iterator[tuple[str, tuple[LineFile, Line]]]:
        for path in _listed(place, ("*.tsv", "*.tsv.gz")):
            file = LineFile(path)
            for line in file.lines():
                if line.head.strip():
                    yield line.head.split(b"\t", 1)[0].decode("utf-8", "replace"), (file, line)

    def read(self, name: str) -> dict[str, Any]:
        file, line = self._places[name]
        where = file.where(line)
        values = file.read(line).split("\t")
        columns = ("name", "width", "height", "number of boxes", "boxes", "features", "class probabilities")
        if len(values) not in (6, 7):
            raise DataError(
                "Wrong number of columns", where=where, got=len(values), expected=f"6 or 7: {', '.join(columns)}"
            )
        fields = dict(zip(columns, values))
        width, height, count = (tables._number(fields, column, where) for column in columns[1:4])
        size = self.feature_size or released_lines.columns_of(fields["features"], count)
        found = {
            "width": width,
            "height": height,
            "boxes": tables._floats(fields, "boxes", count, 4, where),
            "features": tables._floats(fields, "features", count, size, where),
        }
        if len(values) == 7:
            kinds = self.classes or released_lines.columns_of(fields["class probabilities"], count)
            found["classes"] = tables._floats(fields, "class probabilities", count, kinds, where)
        return found


class Lines(Files):
    """The released lines that hold regions: SNLI-VE (14 fields) and COCO captions (16), with ; between; also .gz.

    An image stands in as many lines as it has texts; the first counts. COCO's are called by their number alone.
    """

    source, lines = "lines", 0

    def names(self, place: str) -> Iterator[tuple[str, tuple[LineFile, Line]]]:
        for path in _listed(place, ("*",)):
            file = LineFile(path)
            for line in file.lines():
                if line.head.strip():
                    self.lines += 1
                    name = line.head.split(b";", 1)[0].decode("utf-8", "replace").strip()
                    if name.startswith("COCO_"):
                        name = name[tables.IMAGE_PREFIX :]
                    yield name.lstrip("0") if name.isdigit() else name, (file, line)

    def fit(self, corpus: Corpus, folder: Path, say: Say) -> None:
        self._shared = self._names_of_several(corpus)
        say(f"{self.lines} lines, {len(self._places)} images; of an image's lines the first is read")

    def names_of(self, key: str) -> list[str]:
        number = re.fullmatch(r"(?:COCO_\w+_)?0*(\d+)", key.rpartition("/")[2])
        return [*super().names_of(key), *([number[1]] if number else [])]

    def read(self, name: str) -> dict[str, Any]:
        file, line = self._places[name]
        return released_lines.read_regions_line(file.read(line), where=file.where(line))[1]


class NPZ(Files):
    """A folder with one KEY.npz for each image; arrays as in `ARRAYS`, never pickles."""

    source = "npz"

    def names(self, place: str) -> Iterator[tuple[str, Path]]:
        folder = Path(place)
        if not folder.is_dir():
            raise DataError("no such folder", where=folder, expected="a folder of .npz files")
        return ((path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*.npz")))

    def read(self, name: str) -> dict[str, Any]:
        path = self._places[name]
        return read_npz(read_file(path), where=path.name)


class HDF5(Files):
    """An HDF5 file with a group for each image; its datasets and attributes are named as in `ARRAYS`."""

    source = "hdf5"

    def names(self, place: str) -> Iterator[tuple[str, str]]:
        h5py = optional("h5py", "HDF5", 'pip install "unimo[regions]", or pip install h5py')
        try:
            self.file = h5py.File(place, "r")
        except OSError as fault:
            raise DataError("not an HDF5 file", where=place, got=fault) from fault
        return ((name, name) for name in self.file)

    def read(self, name: str) -> dict[str, Any]:
        try:
            group = self.file[self._places[name]]
            stored = named_arrays({**group.attrs, **{key: group[key] for key in group}}, f"hdf5, {name}")
            return {key: None if value is None else np.asarray(value) for key, value in stored.items()}
        except (OSError, TypeError, ValueError, KeyError, RuntimeError) as fault:  # no group, or no target
            raise DataError("not a group of arrays", where=f"hdf5, {name}", got=str(fault)) from fault


class LMDB(Files):
    """An LMDB folder whose values are .npz files (as UNITER's compressed ones); pickles and msgpack are refused."""

    source = "lmdb"

    def names(self, place: str) -> Iterator[tuple[str, bytes]]:
        lmdb = optional("lmdb", "LMDB", 'pip install "unimo[regions]", or pip install lmdb')
        if not Path(place).exists():
            raise DataError("no such folder", where=place, expected="an LMDB")
        try:
            self.view = lmdb.open(place, readonly=True, lock=False, subdir=Path(place).is_dir()).begin(buffers=False)
        except lmdb.Error as fault:
            raise DataError("not an LMDB", where=place, got=fault) from fault
        cursor = self.view.cursor().iternext(keys=True, values=False)
        return ((key.decode("utf-8", "replace"), key) for key in cursor if key != b"__keys__")

    def read(self, name: str) -> dict[str, Any]:
        return read_npz(self.view.get(self._places[name]), where=f"lmdb, {name}")


def read_npz(data: bytes, *, where: object) -> dict[str, Any]:
    """Arrays of an .npz file, named as ours. Raises DataError if it is none, or holds pickled objects."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:  # an .npy is no archive: a TypeError
            stored = {name: archive[name] for name in archive.files}
    except Exception as fault:  # zipfile, zlib and numpy raise a dozen kinds, MemoryError too
        raise DataError(
            "not an .npz file of plain arrays",
            where=where,
            got=fault,
            expected="arrays without pickles",
        ) from fault
    return named_arrays(stored, where)


def _listed(place: str, inside: tuple[str, ...]) -> list[Path]:
    """Files of a path, a pattern, or a folder, in which they are called like one of `inside`."""
    path = Path(place)
    paths = sorted(found for each in inside for found in path.glob(each)) if path.is_dir() else [path]
    if not path.exists():
        paths = sorted(path.parent.glob(path.name)) if path.parent.is_dir() else []
    paths = [path for path in paths if path.is_file()]
    if not paths:
        raise DataError("no such file", where=place, expected="a file, a folder of them or a pattern")
    return paths


def _stem(name: str) -> str:
    """An image's name without the endings of image and archive."""
    for ending in (".npz", *IMAGE_SUFFIXES):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
    return name
