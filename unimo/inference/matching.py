"""How well an image and a text fit: the matching head over the fused pair, and the cosine beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from unimo.errors import UsageError
from unimo.inference.encoded import EncodedImages, EncodedTexts
from unimo.inference.encoding import Encoder, ImageInput
from unimo.model.unified import Request, Towers
from unimo.model.unimo2 import UNIMO2

RELEASED_COSINE_WEIGHT = 0.3


class Matcher(Encoder):
    """Scores of (image, text) pairs whose towers have run."""

    @property
    def trained_weight(self) -> float | None:
        """Of the cosine in the score by which UNIMO-2 was fine-tuned for retrieval; None for other training."""
        settings = self.facts.get("settings") if self.side else None
        rank = settings.get("rank") if isinstance(settings, dict) and settings.get("kind") == "retrieval" else None
        weight = rank.get("cosine") if isinstance(rank, dict) and rank.get("loss") == "circle" else None
        return weight if isinstance(weight, float) else None

    @torch.inference_mode()
    def match(
        self, images: EncodedImages, texts: EncodedTexts, pairs: np.ndarray, *, cosine_weight: float | None = None
    ) -> np.ndarray:
        """Fused score of (image, text) pairs, (k, 2) -> (k,): matching log-odds + weight x cosine.

        Pre-training draws the negatives of matching in proportion to exp(cosine / temperature), so its log-odds say
        what is left to say after the cosine: by default the weight is 1 / temperature, which makes the sum the
        log-probability of the pair up to a constant. (The released score of UNIMO-2 is the logit of a match + 0.3 x
        cosine, spec unimo2 §6.1; that of UNIMO is its head's alone.) A model fine-tuned for retrieval by another
        weight keeps that one.
        Towers and votes are the cached ones; only the Grounded Transformer runs per pair. Where an image does not look
        at its texts (UNIMO's prefix fusion), pairs side by side with the same image hold it once.
        """
        self.require_matching()
        cosine_weight = self.trained_weight if cosine_weight is None else cosine_weight
        scores = []
        numbers = torch.from_numpy(np.ascontiguousarray(pairs, np.int64)).to(self.device)
        for some in numbers.split(self.batch_size):
            # Only what this chunk needs: fusing gathers from all states it is given.
            (image_numbers, image), (text_numbers, text) = (side.unique(return_inverse=True) for side in some.T)
            seen, read = images.pick(image_numbers), texts.pick(text_numbers)
            towers = Towers(seen.hidden, read.hidden, read.texts, seen.votes, read.votes, seen.lengths)
            with self._autocast():
                request = Request(image, text, share=self.model.can_share)
                fused = self.model.fuse(towers, {"match": request})["match"]
                logits = self.model.match_logits(fused).float()
            cosine = (seen.embedding[image] * read.embedding[text]).sum(-1)
            scores.append(self._pair_score(logits, cosine, cosine_weight))
        return torch.cat(scores).cpu().numpy()

    def itm_score(self, images: Iterable[ImageInput], texts: Sequence[str]) -> np.ndarray:
        """(N, M) fused image-text matching score of every image with every text; larger fits better. See `match`."""
        seen, read = self.encode_images(images), self.encode_texts(texts)
        pairs = np.stack(np.meshgrid(np.arange(len(seen)), np.arange(len(read)), indexing="ij"), -1).reshape(-1, 2)
        return self.match(seen, read, pairs).reshape(len(seen), len(read))

    def require_matching(self) -> None:
        """Raises UsageError if the model has no matching head."""
        if self.model.matching is None:
            raise UsageError(
                "this model does not match images with texts",
                got="a model without a matching head",
                do="compare embeddings alone (shortlist 0, no re-ranking), or train one with model.matching",
            )

    def _pair_score(self, logits: Tensor, cosine: Tensor, weight: float | None) -> Tensor:
        """(n, 2) or (n, 1) logits of the matching head and (n,) cosines -> (n,)."""
        if not isinstance(self.model, UNIMO2):
            fused = logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]
            return fused + (weight or 0.0) * cosine
        if self.model.released.raw_text_score:  # the released score is of one logit, not of the odds
            return logits[:, 1] + (RELEASED_COSINE_WEIGHT if weight is None else weight) * cosine
        near = self.model.contrastive_temperature(cosine) if weight is None else weight * cosine
        return logits[:, 1] - logits[:, 0] + near
