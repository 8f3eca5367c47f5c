"""How well an image and a text fit: the matching head over the fused pair, and the cosine beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimo.errors import UsageError
from unimo.inference.encoding import EncodedImages, EncodedTexts, Encoder
from unimo.model.unified import Request, Towers
from unimo.model.unimo2 import UNIMO2

RELEASED_COSINE_WEIGHT = 0.3


def trained_weight(settings: Mapping[str, Any] | None) -> float | None:
    """Of the cosine in the score by which UNIMO-2 was fine-tuned for retrieval; None for other training."""
    match settings:
        case {"kind": "retrieval", "rank": {"loss": "circle", "cosine": float(weight)}}:
            return weight
    return None


@dataclass(frozen=True)
class Matcher:
    """Scores of (image, text) pairs whose towers have run. weight: of the cosine, from training; None: the default."""

    encoder: Encoder
    weight: float | None = None

    @torch.inference_mode()
    def match(
        self, images: EncodedImages, texts: EncodedTexts, pairs: np.ndarray, weight: float | None, batch_size: int
    ) -> np.ndarray:
        """(k, 2) numbers of images and texts -> (k,) matching log-odds + weight x cosine.

        Towers and votes are the cached ones; only the fused encoder runs per pair. Where an image does not look at its
        texts (UNIMO's prefix fusion), pairs side by side with the same image hold it once.
        """
        self.require()
        model = self.encoder.model
        weight = self.weight if weight is None else weight
        scores = []
        numbers = torch.from_numpy(np.ascontiguousarray(pairs, np.int64)).to(self.encoder.device)
        for some in numbers.split(batch_size):
            # Only what this chunk needs: fusing gathers from all states it is given.
            (image_numbers, image), (text_numbers, text) = (side.unique(return_inverse=True) for side in some.T)
            seen, read = images.pick(image_numbers), texts.pick(text_numbers)
            towers = Towers(seen.hidden, read.hidden, read.texts, seen.votes, read.votes, seen.lengths)
            with self.encoder.autocast():
                fused = model.fuse(towers, {"match": Request(image, text, share=model.can_share)})["match"]
                logits = model.match_logits(fused).float()
            cosine = (seen.embedding[image] * read.embedding[text]).sum(-1)
            scores.append(self._score(logits, cosine, weight))
        return torch.cat(scores).cpu().numpy()

    def require(self) -> None:
        """Raises UsageError if the model has no matching head."""
        if self.encoder.model.matching is None:
            raise UsageError(
                "this model does not match images with texts",
                got="a model without a matching head",
                do="compare embeddings alone (shortlist 0, no re-ranking), or train one with model.matching",
            )

    def _score(self, logits: Tensor, cosine: Tensor, weight: float | None) -> Tensor:
        """(n, 2) or (n, 1) logits of the matching head and (n,) cosines -> (n,).

        Pre-training draws the negatives of matching in proportion to exp(cosine / temperature), so its log-odds say
        what is left to say after the cosine: by default the weight is 1 / temperature, which makes the sum the
        log-probability of the pair up to a constant. The released score of UNIMO-2 is the logit of a match + 0.3 x
        cosine (spec unimo2 §6.1), that of UNIMO its head's alone.
        """
        model = self.encoder.model
        if not isinstance(model, UNIMO2):
            fused = logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]
            return fused + (weight or 0.0) * cosine
        if model.released.raw_text_score:
            return logits[:, 1] + (RELEASED_COSINE_WEIGHT if weight is None else weight) * cosine
        near = model.contrastive_temperature(cosine) if weight is None else weight * cosine
        return logits[:, 1] - logits[:, 0] + near
