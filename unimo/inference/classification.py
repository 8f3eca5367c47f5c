"""Classes and numbers: of any names without training, or by the head of a fine-tuned model.

N images · M texts · D width
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import Formatter

import numpy as np
import torch
from torch import Tensor

from unimo.data.segments import joined
from unimo.errors import UsageError
from unimo.inference.encoding import Encoder, ImageInput, chunks, listed
from unimo.model.task_heads import TaskHead
from unimo.model.unified import Request

Segments = str | Sequence[str]  # a text, or several that are read as one row
PROMPTS = ("{}", "a {}", "a picture of a {}")  # templates of zero-shot classification


@dataclass(frozen=True)
class Classifier:
    """Outputs of the head of a fine-tuned model. path: where the model lies, for an error."""

    encoder: Encoder
    path: object = None

    @property
    def head(self) -> TaskHead:
        """UsageError for a model without one."""
        if self.encoder.model.head is None:
            raise UsageError(
                "this model was not fine-tuned for a task with a head",
                where=self.path,
                do="fine-tune it (unimo finetune); to classify images by any names alone, give the names",
            )
        return self.encoder.model.head

    @torch.inference_mode()
    def logits(self, images: Iterable[ImageInput] | None, texts: Sequence[Segments] | None, batch_size: int) -> Tensor:
        """(n, k) of images, texts, or images each beside its text. UsageError without what the head reads.

        With batch_size 1 no bit of an answer depends on another row.
        """
        texts = None if texts is None else list(listed(texts, "text"))
        encoder, head = self.encoder, self.head
        shown = None if images is None else list(listed(images, "image"))
        n = len(shown) if shown is not None else len(texts or ())
        if not n or (texts is not None and len(texts) != n):
            got = f"{0 if shown is None else len(shown)} images, {len(texts or ())} texts"
            raise UsageError("as many texts as images, and at least one", got=got)
        for side, given in (("image", shown), ("text", texts)):
            if head.settings.reads in (side, "both") and given is None:
                raise UsageError(f"this model reads a {side} in every row", where=head.settings.task, got="none")
        found = []
        for some in chunks(range(n), 1 if encoder.batch_dependent else batch_size):
            with encoder.autocast():
                towers = encoder.no_towers() if shown is None else encoder.image_towers([shown[i] for i in some])
                if texts is not None:
                    towers.texts = encoder.pack([self._read(texts[i]) for i in some])
                towers.words = encoder.model.encode_texts(towers.texts)
                encoder.model.count_votes(towers)
                here = torch.arange(len(some), device=encoder.device)
                request = Request(None if shown is None else here, None if texts is None else here)
                fused = encoder.model.fuse(towers, {"task": request})["task"]
                found.append(encoder.model.task_logits(fused).float())
        return torch.cat(found)

    def probabilities(self, logits: Tensor) -> np.ndarray:
        """(n, k) of each class; where a question may have several answers, each has a probability of its own."""
        several = self.head.settings.kind == "answers"
        return (logits.sigmoid() if several else logits.softmax(-1)).cpu().numpy()

    def answers(self, logits: Tensor) -> list[str | float]:
        """The likeliest class or answer of each row; of a regression, its number."""
        head = self.head.settings
        if head.kind == "number":
            return [head.centre + head.spread * x for x in logits[:, 0].tolist()]
        return [head.labels[i] for i in logits.argmax(-1).tolist()]

    def _read(self, text: Segments) -> np.ndarray:
        """The ids of one row: a string, or its segments."""
        max_length = min(self.head.settings.max_length, self.encoder.max_length)
        return joined([self.encoder.ids(one) for one in ([text] if isinstance(text, str) else text)], max_length)


def prompted(names: Sequence[str], prompts: Sequence[str] = PROMPTS) -> list[str]:
    """Every template with every name at its place: names one after the other, of each all templates.

    A place is {} or has any one name: {c}, {classname}. It may come more than once; a brace that is meant as one is
    doubled. UsageError for a template without a place, with places of two names or of another form, and for names that
    are empty or come twice.
    """
    names, prompts = _listed(names, "class name"), _listed(prompts, "prompt")
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise UsageError("not a class name", where="names", got=repr(name)[:60], expected="a text")
        if name in seen:  # both would share what one of them should get
            raise UsageError("a class is named twice", where="names", got=name[:60], expected="each class once")
        seen.add(name)
    pieces = [_pieces(prompt) for prompt in prompts]
    return [name.join(parts) for name in names for parts in pieces]


def _listed(given: Sequence[str], what: str) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(
            f"a single {what}", got=repr(given)[:80], expected=f"a list of {what}s", do="put it into [...]"
        )
    listed = list(given)
    if not listed:
        raise UsageError(f"no {what}s", got="an empty list", expected="at least one")
    return listed


def _pieces(prompt: str) -> list[str]:
    """What stands before, between and behind the places of a template."""
    if not isinstance(prompt, str):
        raise UsageError("not a prompt", where="prompts", got=type(prompt).__name__, expected="a text with one {}")
    try:
        parsed = list(Formatter().parse(prompt))
    except ValueError as error:
        raise _refused("a prompt with an odd brace", prompt, str(error)) from None
    pieces, places = [""], set()
    for text, place, form, conversion in parsed:
        pieces[-1] += text
        if place is None:
            continue
        if form or conversion or not (place == "" or place.isidentifier() or place.isdigit()):
            raise _refused("a prompt whose place is more than a name", prompt)
        places.add(place)
        pieces.append("")
    if not places:
        raise _refused("a prompt without a place for the class name", prompt)
    if len(places) > 1:
        raise _refused("a prompt with places of different names", prompt, ", ".join(sorted(places)))
    return pieces


def _refused(what: str, prompt: str, why: str = "") -> UsageError:
    return UsageError(
        what,
        where="prompts",
        got=prompt[:80] + (f" ({why})" if why else ""),
        expected='one place, {} or {name}, as in "a photo of a {}"',
        do="write {{ and }} for braces that are meant as such",
    )
