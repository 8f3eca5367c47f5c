"""The head of a fine-tuned task: what is read off both poolers, and names of its outputs (spec unimo §6.2 to §6.10).

n rows · D width · k outputs

one text, a pair of texts   text pooler                    -> dropout -> Linear(D, k)             GLUE
image beside a text       poolers' sum                   -> Linear(D, 2048) -> dropout -> Linear(2048, 3)   SNLI-VE
                            poolers' product               -> Linear, ReLU, dropout -> Linear     VQA
image alone               image pooler                   -> dropout -> Linear(D, k)             ImageNet
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from unimo.config import Contradiction, setting
from unimo.model.transformer import init_weights

Reads = Literal["text", "image", "both"]


@dataclass(frozen=True)
class HeadSettings:
    """Part of a fine-tuned model's settings, so that whoever opens the model has the names of its answers."""

    task: str = setting("classification", "what it was fine-tuned for")
    kind: Literal["classes", "answers", "number"] = setting(
        "classes", "one of the labels, any number of them (VQA), or a number"
    )
    labels: tuple[str, ...] = setting((), "names of the outputs in their order; a number has none")
    reads: Reads = setting("text", "text, image or both: which poolers")
    fusion: Literal["product", "sum"] = setting("product", "how both poolers are joined")
    hidden: int = setting(0, "width of a layer in between; 0: none", at_least=0, at_most=65536)
    activation: Literal["none", "relu"] = setting("none", "what follows that layer")
    dropout: float = setting(0.1, "dropout before the last layer", at_least=0, below=1)
    max_length: int = setting(512, "tokens of a text that are read, special ones included", at_least=3)
    centre: float = setting(0.0, "a number is `centre` + `spread` x the output")
    spread: float = setting(1.0, "see centre")

    def contradictions(self) -> Iterator[Contradiction]:
        if self.kind != "number" and not self.labels:
            yield Contradiction("a head without outputs", (), got="no labels", expected="labels, or kind=number")


class TaskHead(nn.Module):
    """forward: pooled image and text, (n, D) each or None where the head does not read it -> (n, k)."""

    def __init__(self, width: int, settings: HeadSettings, initial_std: float = 0.02):
        super().__init__()
        self.settings = settings
        outputs = 1 if settings.kind == "number" else len(settings.labels)
        self.between = nn.Linear(width, settings.hidden) if settings.hidden else None
        self.dropout = nn.Dropout(settings.dropout)
        self.output = nn.Linear(settings.hidden or width, outputs)
        init_weights(self, initial_std)

    def forward(self, image: Tensor | None, text: Tensor | None) -> Tensor:
        if image is None or text is None:
            x = image if image is not None else text
            assert x is not None, "a head reads an image, a text or both"
        else:
            x = image * text if self.settings.fusion == "product" else image + text
        if self.between is not None:
            x = self.between(x)
            x = x.relu() if self.settings.activation == "relu" else x
        return self.output(self.dropout(x))
