"""The grounded dictionary's own loss: entries and the positions that voted for them move together (spec unimo2 §3).

    n sequences · P patches · L words of the longest text · D width

Nothing is hidden. Computed on every sequence that images or texts form on their own terms (true pairs, unpaired
images, unpaired texts): can the chosen entries rebuild the voting positions, and the positions the entries? The
terms weigh 1 and 1/4. Sequences that others fuse have their choice made; where nobody fuses pairs or images, it is
made here, from the towers alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unimo.batch import Batch
from unimo.config import setting
from unimo.data.batch_builder import BatchBuilder
from unimo.model.attention import rounded
from unimo.model.grounding import DICTIONARY_WEIGHT, ENCODER_WEIGHT
from unimo.model.unified import Fused, Request, Towers
from unimo.model.unimo2 import UNIMO2
from unimo.objectives.objective import Part

# The names of requests for sequences of each stream as they stand, no negatives. The first that was fused counts, so
# that pairs of two objectives count once; a caption that is written comes last, for it has no vote. Of passages only
# the masked ones count: a rank may hold no other kind, and what counts must not depend on the number of ranks.
SEQUENCES = {
    "pairs": ("mlm.pairs", "itm.match", "masked_grounding", "seq2seq.pairs"),
    "images": ("image_contrastive",),
    "texts": ("mlm.texts",),
}


@dataclass(frozen=True)
class GroundedDictionaryLoss:
    members = ("unimo-2",)
    trains = ("dictionary",)
    parts = ("dictionary.entries", "dictionary.encoders")
    weight: float = setting(
        1.0, "weight of the dictionary loss; 0 switches it off (the dictionary stays)", at_least=0, at_most=1e6
    )

    def corrupt(self, builder: BatchBuilder) -> None:
        """Nothing is hidden."""

    def requests(self, model: UNIMO2, batch: Batch, towers: Towers) -> dict[str, Request]:
        return {}

    def loss(self, model: UNIMO2, batch: Batch | None, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        """batch None: of what was fused alone."""
        if model.dictionary is None:
            return {}
        sums: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for stream, names in SEQUENCES.items():
            one = next((fused[name] for name in names if name in fused), None)
            found = _of_towers(stream, model, batch, towers) if one is None else (one.request, one.codes)
            if found is None:
                continue
            request, codes = found
            hidden, valid = voting_positions(model, towers, request)
            if codes is None:
                codes = model.dictionary.nearest(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
            sums.append(model.dictionary.loss(hidden, valid, codes))
        if not sums:
            return {}
        entry_sum, entry_count, encoder_sum, encoder_count = (sum(column) for column in zip(*sums))
        return {
            "dictionary.entries": Part(entry_sum, entry_count, self.weight * DICTIONARY_WEIGHT),
            "dictionary.encoders": Part(encoder_sum, encoder_count, self.weight * ENCODER_WEIGHT),
        }


def _of_towers(stream: str, model: UNIMO2, batch: Batch | None, towers: Towers) -> tuple[Request, Tensor | None] | None:
    """What nobody fused: pairs whose captions are read as they are, and unpaired images; and the entries they choose,
    None where each position has its nearest.
    """
    if batch is None:
        return None
    if stream == "pairs" and "pairs.clean" in batch.text_groups:
        request = Request(batch.images_of("pairs"), batch.texts_of("pairs.clean"))
    elif stream == "images" and (views := [name for name in batch.image_groups if name.startswith("images.")]):
        request = Request(torch.cat([batch.images_of(name) for name in views]), None)
    else:
        return None
    assert request.image is not None and model.dictionary is not None
    if model.dictionary.method != "topk":
        return request, None
    nothing = torch.full_like(request.image, -1)
    return request, model.choice(towers, request.image, nothing if request.text is None else request.text)


def voting_positions(model: UNIMO2, towers: Towers, request: Request) -> tuple[Tensor, Tensor]:
    """The vectors that vote in each sequence, padded to one rectangle: (n, P + L, D) and which are real, (n, P + L)."""
    assert model.dictionary is not None
    parts, valid = [], []
    if request.image is not None:
        numbers = request.image.to(towers.images.device, non_blocking=True)
        patches = model.dictionary.positions_of(towers.images[numbers, 1:], "image")
        parts.append(patches)
        valid.append(torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device))
    if request.text is not None:
        texts, numbers, device = towers.texts.host, request.text.cpu(), towers.words.device
        starts, lengths = texts.offsets[numbers], texts.lengths[numbers]
        place = torch.arange(rounded(int(lengths.max()), 4))
        real = place < lengths[:, None]
        rows = torch.where(real, starts[:, None] + place, starts[:, None]).to(device, non_blocking=True)
        real = real.to(device, non_blocking=True)
        words = model.dictionary.positions_of(towers.words[rows], "text")
        parts.append(words)
        valid.append(real & model.text_voters(towers.texts)[rows])
    return torch.cat([part.to(parts[0].dtype) for part in parts], 1), torch.cat(valid, 1)
