"""What the papers report of each task, to stand beside a score of ours: never of the same model, data or machine.

Sources: UNIMO (Li et al., ACL 2021), Tables 1 and 2; UNIMO-2 (Li et al., Findings of ACL 2022), Tables 1 to 3. Which
split a number belongs to is part of it: UNIMO-2's recalls on Flickr30k are those of the validation split, because only
shares of its 1,014 images give such numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

UNSTATED = "split not stated"  # by what of the papers was at hand
UNIMO, UNIMO2 = "UNIMO paper, Table", "UNIMO-2 paper, Table"


@dataclass(frozen=True)
class Published:
    """metric: several are separated by slashes, and so are their values. value: as printed, times 100."""

    model: str
    metric: str
    value: str
    split: str
    source: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def _both(metric: str, split: str, table: int, base: str, large: str) -> tuple[Published, ...]:
    source = f"{UNIMO} {table}"
    return tuple(
        Published(f"UNIMO {size}", metric, value, split, source) for size, value in (("base", base), ("large", large))
    )


def _second(metric: str, split: str, table: int, value: str) -> Published:
    return Published("UNIMO-2", metric, value, split, f"{UNIMO2} {table}")


RECALL = "text to image R@1/image to text R@1"
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "flickr30k_retrieval": (
        *_both(RECALL, "test", 1, "74.66/89.70", "78.04/89.40"),
        _second(RECALL, "val", 1, "80.14/92.01"),
    ),
    "snli_ve": (
        *_both("accuracy", "val/test", 1, "80.00/79.10", "81.11/80.63"),
        _second("accuracy", "val/test", 1, "81.97/81.48"),
    ),
    "vqa": (
        *_both("VQA accuracy", "test-dev/test-std", 1, "73.79/74.02", "75.06/75.27"),
        _second("VQA accuracy", "test-dev/test-std", 1, "76.31/76.42"),
    ),
    "coco_captions": (
        *_both("BLEU-4/CIDEr", "test", 1, "38.8/124.4", "39.6/127.7"),
        _second("BLEU-4/CIDEr", "test", 1, "39.7/131.2"),
    ),
    "imagenet": (_second("accuracy", UNSTATED, 2, "80.8"),),
    "sst2": (*_both("accuracy", "dev", 2, "95.1", "96.8"), _second("accuracy", "dev", 3, "94.7")),
    "mnli": (
        *_both("accuracy, matched/mismatched", "dev", 2, "86.8/86.7", "89.8/89.5"),
        _second("accuracy, matched/mismatched", "dev", 3, "87.5/87.5"),
    ),
    "cola": (*_both("Matthews", "dev", 2, "65.4", "68.5"), _second("Matthews", "dev", 3, "62.1")),
    "stsb": (*_both("Pearson", "dev", 2, "91.0", "92.6"), _second("Pearson", "dev", 3, "91.2")),
    "coqa": _both("F1", "dev", 2, "80.2", "84.9"),
    "squad_qg": _both("BLEU-4/METEOR/ROUGE-L", UNSTATED, 2, "22.78/25.24/51.34", "24.59/26.39/52.47"),
    "cnn_dailymail": _both("ROUGE-1/ROUGE-2/ROUGE-L", UNSTATED, 2, "42.42/20.12/39.61", "43.51/20.65/40.63"),
    "gigaword": _both("ROUGE-1/ROUGE-2/ROUGE-L", UNSTATED, 2, "38.80/19.99/36.27", "39.71/20.37/36.88"),
}

__all__ = ["PUBLISHED", "Published"]
