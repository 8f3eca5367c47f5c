"""Classes and numbers: of any names without training, or by the head of a fine-tuned model.

N images · M texts · D width
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unimo.data.segments import joined
from unimo.errors import UsageError
from unimo.inference.encoding import Encoder, ImageInput, chunks, several
from unimo.inference.prompts import PROMPTS, prompted
from unimo.model.task_heads import TaskHead
from unimo.model.unified import Request, Towers
from unimo.model.unimo2 import UNIMO2


class Classifier(Encoder):
    """Probabilities and answers, `size_of_batch` rows in a pass."""

    def classify(
        self,
        images: Iterable[ImageInput] | None = None,
        names: Sequence[str] | None = None,
        *,
        texts: Sequence[str | Sequence[str]] | None = None,
        prompts: Sequence[str] = PROMPTS,
    ) -> np.ndarray:
        """(N, k) probabilities of k classes.

        With names, from these alone (zero-shot): cosine of each image with the mean of the prompted names. Without,
        by the head of a fine-tuned model: of each image, each text (or pair of texts), or each image beside its
        text; the classes are `labels`. Where a question may have several answers, each has a probability of its own.
        """
        if names is None:
            logits = self.task_logits(images, texts)
            several = self._head().settings.kind == "answers"
            return (logits.sigmoid() if several else logits.softmax(-1)).cpu().numpy()
        if images is None:
            raise UsageError("nothing to classify by its name", expected="images")
        weights = self.class_embeddings(names, prompts)
        cosine = self.encode_images(images).embedding @ weights.to(self.device).T
        if isinstance(self.model, UNIMO2):
            cosine = self.model.contrastive_temperature(cosine)
        return cosine.softmax(-1).detach().cpu().numpy()

    def class_embeddings(self, names: Sequence[str], prompts: Sequence[str] = PROMPTS) -> Tensor:
        """(len(names), D): each class as the normalised mean of its prompts' embeddings. prompts: see `prompted`."""
        embedding = torch.from_numpy(self.encode_text(prompted(names, prompts)))
        embedding = embedding.unflatten(0, (len(names), len(prompts)))
        return F.normalize(embedding.mean(1), dim=-1)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes or answers of a fine-tuned model, in the order of its probabilities."""
        return self._head().settings.labels

    def answer(
        self, questions: Sequence[str | Sequence[str]] | None = None, images: Iterable[ImageInput] | None = None
    ) -> list[str | float]:
        """The likeliest answer or class of each row by the head of a fine-tuned model; of a regression, its number."""
        head = self._head().settings
        logits = self.task_logits(images, questions)
        if head.kind == "number":
            return [head.centre + head.spread * x for x in logits[:, 0].tolist()]
        return [head.labels[i] for i in logits.argmax(-1).tolist()]

    @torch.inference_mode()
    def task_logits(
        self, images: Iterable[ImageInput] | None = None, texts: Sequence[str | Sequence[str]] | None = None
    ) -> Tensor:
        """(n, k) of the head of a fine-tuned model. With size_of_batch 1 no bit of an answer depends on another row.

        texts: a string each, or its segments. UsageError for a model without a head, or without what its head reads.
        """
        several(texts, "text")
        head, shown = self._head(), None if images is None else list(several(images, "image"))
        n = len(shown) if shown is not None else len(texts or ())
        if not n or (texts is not None and len(texts) != n):
            got = f"{0 if shown is None else len(shown)} images, {len(texts or ())} texts"
            raise UsageError("as many texts as images, and at least one", got=got)
        for side, given in (("image", shown), ("text", texts)):
            if head.settings.reads in (side, "both") and given is None:
                raise UsageError(f"this model reads a {side} in every row", where=head.settings.task, got="none")
        found = []
        for some in chunks(range(n), 1 if self.company_matters else self.batch_size):
            towers = self._no_towers() if shown is None else self._see([shown[i] for i in some])
            if texts is not None:
                towers.texts = self.pack([self._read(texts[i], head) for i in some])
            with self._autocast():
                towers.words = self.model.encode_texts(towers.texts)
                self.model.count_votes(towers)
                here = torch.arange(len(some), device=self.device)
                request = Request(None if shown is None else here, None if texts is None else here)
                found.append(self.model.task_logits(self.model.fuse(towers, {"task": request})["task"]).float())
        return torch.cat(found)

    def _read(self, text: str | Sequence[str], head: TaskHead) -> np.ndarray:
        """The ids of one row: a string, or its segments."""
        segments = [text] if isinstance(text, str) else list(text)
        ids = self.tokenizer.encode_batch(segments, max_bytes=8 * self.max_length)
        return joined([np.asarray(one, np.int64) for one in ids], min(head.settings.max_length, self.max_length))

    def _head(self) -> TaskHead:
        if self.model.head is None:
            raise UsageError(
                "this model was not fine-tuned for a task with a head",
                where=self.facts.get("path"),
                do="fine-tune it (unimo finetune), or name the classes (classify(images, names))",
            )
        return self.model.head

    def _no_towers(self) -> Towers:
        return Towers(self._no_images(), self._no_words(), self._no_texts())
