"""Zero-shot classification: the class whose name, put into prompts, lies nearest to the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unimo.corpus.corpus import Corpus
from unimo.errors import DataError
from unimo.evaluation.zero_shot.context import EvalContext, Paths, Row, choose, digest, row
from unimo.inference import PROMPTS
from unimo.metrics.retrieval import recall_at_k


@dataclass(frozen=True)
class Classified:
    """cosine: (n, classes) of each image with the mean of each class's prompts; labels: (n,) the right."""

    corpus: Corpus
    items: np.ndarray
    names: list[str]
    labels: np.ndarray
    cosine: np.ndarray


@dataclass(frozen=True)
class Classification:
    """images: paths of images whose JSON names their class, or that lie in a folder for each class.

    unseen: class names to score apart as well.
    """

    images: Paths
    title: str = "Classification by class names"
    prompts: Sequence[str] = PROMPTS
    limit: int | None = None
    unseen: Sequence[str] = ()
    seed: int = 0

    def predict(self, context: EvalContext) -> Classified:
        corpus = context.corpus("images", self.images)
        label_of = {i: label for i, label in enumerate(corpus.labels or map(folder_name, corpus.keys)) if label}
        names = sorted(set(label_of.values()))
        if len(names) < 2:
            raise DataError(
                "these images name no classes to choose from",
                where=", ".join(self.images),
                got=f"{len(names)} class names among {len(corpus)} images",
                expected="a folder for each class, or a field label_name or label in each image's JSON",
            )
        items = np.array(list(label_of))[choose(len(label_of), self.limit, "classes", self.seed)]
        classes = context.pipeline.class_embeddings(names, self.prompts).numpy()
        cosine = context.images(corpus, items).embedding.cpu().numpy() @ classes.T
        number = {name: k for k, name in enumerate(names)}
        labels = np.array([number[label_of[int(i)]] for i in items])
        return Classified(corpus, items, names, labels, cosine)

    def score(self, found: Classified) -> list[Row]:
        """Top-1 and top-5 accuracy over all images, and over those of unseen classes."""
        unseen = np.isin(np.array(found.names)[found.labels], list(self.unseen))
        note = f"{len(found.names)} classes, {len(self.prompts)} prompts: {', '.join(self.prompts)}"
        rows = []
        for part, mine in (("", np.full(len(found.items), True)), (", classes not seen in training", unseen)):
            if mine.any():
                recalls = recall_at_k(found.cosine[mine], found.labels[mine], (1, 5), seed=self.seed)
                items = digest([found.corpus.keys[int(i)] for i in found.items[mine]], found.names)
                rows += [row(self.title, f"top-{k}{part}", recalls[f"R@{k}"], "%", note, items) for k in (1, 5)]
        return rows

    def show(self, found: Classified, most: int = 12) -> list[dict]:
        """The first images that went wrong, with the predicted class and the true one."""
        predicted = found.cosine.argmax(1)
        wrong = np.flatnonzero(predicted != found.labels)[:most]
        shown = [
            {
                "image": found.corpus.image_bytes(int(found.items[i])),
                "title": found.names[predicted[i]],
                "lines": [f"is: {found.names[found.labels[i]]}"],
            }
            for i in wrong
        ]
        return [{"title": f"{self.title}: errors", "items": shown}] if shown else []


def folder_name(key: str) -> str | None:
    """The outermost folder that an image lies in, in words: golden retriever of golden_retriever/1.jpg."""
    folder, inside, _ = key.partition("/")
    return folder.replace("_", " ") if inside else None
