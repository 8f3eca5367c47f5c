"""SNLI and SNLI-VE as published, JSON lines (Bowman et al., EMNLP 2015; Xie et al., 2019).

    SNLI     pairID, sentence1, sentence2, gold_label
    SNLI-VE  pairID, Flickr30K_ID, sentence2, gold_label; its sentence1, the caption, is not read: the premise is the
             image, and a model that were given the caption would not have to look

A label "-" marks pairs whose annotators did not agree; both papers leave them out, and so do the readers, counting.
"""

from __future__ import annotations

from unimo.finetune.readers.layout import Layout

UNDECIDED = {"-": "label '-': the annotators did not agree"}

SNLI = Layout(
    {
        "id": ("pairID", "id"),
        "text": ("sentence1", "premise"),
        "text2": ("sentence2", "hypothesis"),
        "label": ("gold_label", "label"),
        "group": ("captionID",),
    },
    ("text", "text2"),
    "classification",
    dropped=UNDECIDED,
)
SNLI_VE = Layout(
    {
        "id": ("pairID", "id"),
        "image": ("Flickr30K_ID", "Flickr30kID", "image"),
        "text": ("sentence2", "hypothesis"),
        "label": ("gold_label", "label"),
    },
    ("text", "image"),
    "classification",
    dropped=UNDECIDED,
)
