"""What the papers report of each task, to stand beside a score of ours: never of the same model, data or machine.

Sources: UNIMO (Li et al., ACL 2021), Tables 1 and 2; UNIMO-2 (Li et al., Findings of ACL 2022), Tables 1 to 3. Which
split a number belongs to is part of it: UNIMO-2's recalls on Flickr30k are those of the validation split, because only
fractions of its 1,014 images give such numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

UNSTATED = "split not stated"  # by what of the papers was at hand
RECALL, ROUGE = "text to image R@1/image to text R@1", "ROUGE-1/ROUGE-2/ROUGE-L"
# Task -> metric, split, table and score of UNIMO base and large, table and score of UNIMO-2. Several metrics or splits
# are separated by slashes, and so are their values, as printed.
ROWS: dict[str, tuple[str, str, int, str, str, int, str]] = {
    "flickr30k_retrieval": (RECALL, "test", 1, "74.66/89.70", "78.04/89.40", 1, "80.14/92.01"),
    "snli_ve": ("accuracy", "val/test", 1, "80.00/79.10", "81.11/80.63", 1, "81.97/81.48"),
    "vqa": ("VQA accuracy", "test-dev/test-std", 1, "73.79/74.02", "75.06/75.27", 1, "76.31/76.42"),
    "coco_captions": ("BLEU-4/CIDEr", "test", 1, "38.8/124.4", "39.6/127.7", 1, "39.7/131.2"),
    "imagenet": ("accuracy", UNSTATED, 0, "", "", 2, "80.8"),
    "sst2": ("accuracy", "dev", 2, "95.1", "96.8", 3, "94.7"),
    "mnli": ("accuracy, matched/mismatched", "dev", 2, "86.8/86.7", "89.8/89.5", 3, "87.5/87.5"),
    "cola": ("Matthews", "dev", 2, "65.4", "68.5", 3, "62.1"),
    "stsb": ("Pearson", "dev", 2, "91.0", "92.6", 3, "91.2"),
    "coqa": ("F1", "dev", 2, "80.2", "84.9", 0, ""),
    "squad_qg": ("BLEU-4/METEOR/ROUGE-L", UNSTATED, 2, "22.78/25.24/51.34", "24.59/26.39/52.47", 0, ""),
    "cnn_dailymail": (ROUGE, UNSTATED, 2, "42.42/20.12/39.61", "43.51/20.65/40.63", 0, ""),
    "gigaword": (ROUGE, UNSTATED, 2, "38.80/19.99/36.27", "39.71/20.37/36.88", 0, ""),
}

# Ingredient of a campaign -> what the papers measured with and without it.
ABLATIONS: dict[str, tuple[str, ...]] = {
    "texts": (
        "UNIMO base without texts, Table 3: Flickr30k R@1 74.66 -> 72.04 (images), 89.70 -> 85.80 (captions), SNLI-VE "
        "val 80.00 -> 79.52, VQA test-dev 73.79 -> 73.77, COCO CIDEr 124.4 -> 123.2",
    ),
    "texts and images": (
        "UNIMO base without single-modal data, Table 2: SST-2 95.1 -> 82.0, MNLI 86.8 -> 59.9 (matched), CoLA "
        "65.4 -> 15.0, STS-B 91.0 -> 88.8, CoQA 80.2 -> 67.1",
    ),
    "dictionary": (
        "UNIMO-2 beside its baseline without a dictionary, Tables 1 to 3: zero-shot Flickr30k R@1 72.70 -> 65.11 "
        "(images), 88.46 -> 78.80 (captions), VQA test-dev 76.31 -> 75.69, CIDEr 131.2 -> 128.4, SST-2 94.7 -> 94.1",
    ),
}


@dataclass(frozen=True)
class Published:
    """One number of a paper. value: as printed, times 100."""

    model: str
    metric: str
    value: str
    split: str
    source: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def _published(task: str) -> tuple[Published, ...]:
    metric, split, table, base, large, second_table, second = ROWS[task]
    second_split = "val" if task == "flickr30k_retrieval" else split
    rows = (
        ("UNIMO base", base, split, f"UNIMO paper, Table {table}"),
        ("UNIMO large", large, split, f"UNIMO paper, Table {table}"),
        ("UNIMO-2", second, second_split, f"UNIMO-2 paper, Table {second_table}"),
    )
    return tuple(Published(model, metric, value, where, source) for model, value, where, source in rows if value)


PUBLISHED = {task: _published(task) for task in ROWS}
