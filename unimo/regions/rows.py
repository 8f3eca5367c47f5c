"""How the regions of one image are stored: which columns, in which precision, and how they come back.

R regions of an image · F features · K classes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from unimo.data.regions import ImageRegions
from unimo.errors import DataError, UsageError

SUM_TOLERANCE = 0.01  # by which probabilities may miss 1: a detector may have stored them in float16
Precision = Literal["float16", "int8"]


@dataclass(frozen=True)
class RowFormat:
    """How rows are stored. features: F; classes: K, 0 for none; top: likeliest classes kept of each row, 0 for all."""

    features: int
    classes: int
    precision: Precision = "float16"
    top: int = 0

    def __post_init__(self) -> None:
        if self.precision not in ("float16", "int8"):
            raise UsageError("unknown precision", got=self.precision, expected="float16 or int8")
        if self.features < 1 or not 0 <= self.top <= self.classes < 2**16:
            raise UsageError("impossible rows", got=asdict(self), expected="features >= 1, top <= classes < 65536")

    @property
    def columns(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """name -> (dtype, shape of a row) of every table, widest dtype first so that each is aligned in the file."""
        table: dict[str, tuple[Any, tuple[int, ...]]] = {"boxes": (np.float32, (5,))}
        if self.precision == "int8":
            table["scales"] = (np.float32, ())
        table["features"] = (np.int8 if self.precision == "int8" else np.float16, (self.features,))
        if self.classes:
            table["classes"] = (np.float16, (self.top or self.classes,))
        if self.top:
            table["class_ids"] = (np.uint16, (self.top,))
        found = {name: (np.dtype(dtype), shape) for name, (dtype, shape) in table.items()}
        return dict(sorted(found.items(), key=lambda column: -column[1][0].itemsize))

    def encode(self, image: ImageRegions, *, where: object = "this image") -> dict[str, np.ndarray]:
        """Rows as they are stored. Raises DataError for other sizes than F and K, and for what float16 cannot hold."""
        width = 0 if image.classes is None else image.classes.shape[1]
        for name, got, expected in (
            ("features", image.features.shape[1], self.features),
            ("classes", width, self.classes),
        ):
            if got != expected:
                raise DataError(
                    f"Another number of {name} than the other images have", where=where, got=got, expected=expected
                )
        rows: dict[str, np.ndarray] = {"boxes": image.boxes.astype(np.float32)}
        if self.precision == "int8":
            largest = np.abs(image.features).max(axis=1)
            rows["scales"] = np.where(largest > 0, largest / 127, 1).astype(np.float32)
            rows["features"] = np.rint(image.features / rows["scales"][:, None]).astype(np.int8)
        else:
            if (largest := np.abs(image.features).max()) > np.finfo(np.float16).max:
                raise DataError("A feature is too large for float16", where=where, got=largest, do="store as int8")
            rows["features"] = image.features.astype(np.float16)
        if image.classes is not None:
            kept = image.classes
            if self.top:
                rows["class_ids"] = np.argsort(-kept, axis=1, kind="stable")[:, : self.top].astype(np.uint16)
                kept = np.take_along_axis(kept, rows["class_ids"].astype(np.int64), axis=1)
            rows["classes"] = kept.astype(np.float16)
        return rows

    def decode(self, rows: Mapping[str, np.ndarray]) -> ImageRegions:
        """float32 again, probabilities summing to one; what the kept ones leave is spread evenly over the others."""
        features = rows["features"].astype(np.float32)
        if self.precision == "int8":
            features *= rows["scales"][:, None]
        if not self.classes:
            return ImageRegions(features, np.array(rows["boxes"]))
        classes = rows["classes"].astype(np.float32)
        if self.top:
            others = max(self.classes - self.top, 1)
            left = (1 - classes.sum(axis=1, keepdims=True)).clip(0) / others
            dense = np.repeat(left, self.classes, axis=1)
            np.put_along_axis(dense, rows["class_ids"].astype(np.int64), classes, axis=1)
            classes = dense
        return ImageRegions(features, np.array(rows["boxes"]), classes / classes.sum(axis=1, keepdims=True))


def check_distributions(classes: np.ndarray, *, where: object = "this image") -> None:
    """(R, K) probabilities of each region. Raises DataError for a negative one, and for rows that do not sum to one."""
    sums = classes.sum(axis=1)
    for wrong, what, values, expected in (
        ((classes < 0).any(axis=1), "A class probability is negative", classes.min(axis=1), "0 or more"),
        (np.abs(sums - 1) > SUM_TOLERANCE, "Class probabilities do not sum to one", sums, f"1 within {SUM_TOLERANCE}"),
    ):
        if wrong.any():
            i = int(wrong.argmax())
            raise DataError(what, where=f"{where}, region {i}", got=f"{values[i]:.4g}", expected=expected)
