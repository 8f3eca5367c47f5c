"""How well an image and a text fit: by the matching head over the fused pair, or by the likelihood of the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimo.batch import PADDING
from unimo.decoding.decoder import Given, log_likelihood
from unimo.errors import UsageError
from unimo.inference.encoding import EncodedImages, EncodedTexts, Encoder, check_count
from unimo.model.unified import Request, Towers
from unimo.model.unimo2 import UNIMO2

RELEASED_COSINE_WEIGHT = 0.3
BESIDE = 4  # images beside which it is measured how likely a text is in general


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
        numbers = torch.from_numpy(checked_pairs(images, texts, pairs)).to(self.encoder.device)
        for some in numbers.split(check_count("batch_size", batch_size)):
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

    @torch.inference_mode()
    def caption_log_likelihood(
        self, images: EncodedImages, texts: EncodedTexts, pairs: np.ndarray, batch_size: int
    ) -> np.ndarray:
        """(k, 2) numbers of images and texts -> (k,) log P(text as a caption | image), in nats, its end included."""
        numbers, found, held = torch.from_numpy(checked_pairs(images, texts, pairs)), [], texts.texts
        parts = zip(held.ids.split(held.lengths.tolist()), held.roles.split(held.lengths.tolist()))
        words = [ids[roles != PADDING].tolist() for ids, roles in parts]
        for some in numbers.split(batch_size):
            seen = images.pick(some[:, 0].to(self.encoder.device))
            given = Given(seen.hidden, image_lengths=seen.lengths)
            with self.encoder.autocast():
                found.append(log_likelihood(self.encoder.model, given, [words[i] for i in some[:, 1].tolist()]))
        return torch.cat(found).cpu().numpy()

    def match_by_likelihood(
        self,
        images: EncodedImages,
        texts: EncodedTexts,
        pairs: np.ndarray,
        beside: EncodedImages | None,
        batch_size: int,
    ) -> np.ndarray:
        """(k, 2) -> (k,) log P(text | image) - log P(text) + the contrastive score.

        How much likelier the image makes the text, which is what contrastive learning estimates too (pointwise mutual
        information; van den Oord et al. 2018). log P(text): over the images `beside`; None leaves it out, where each
        text is compared with itself only.
        """
        pairs = checked_pairs(images, texts, pairs)
        scores = self.caption_log_likelihood(images, texts, pairs, batch_size)
        never = np.isneginf(scores)  # texts with a word that the model does not write say nothing of any image
        if beside is not None:
            distinct, place = np.unique(pairs[:, 1], return_inverse=True)
            every = np.stack(np.divmod(np.arange(len(beside) * len(distinct)), len(distinct)), axis=1)
            every[:, 1] = distinct[every[:, 1]]
            alone = self.caption_log_likelihood(beside, texts, every, batch_size).reshape(len(beside), len(distinct))
            alone[:, np.isneginf(alone[0])] = 0
            scores = scores - (np.logaddexp.reduce(alone, axis=0) - np.log(len(beside)))[place]
        scores[never] = 0
        if not isinstance(self.encoder.model, UNIMO2):  # whose towers do not meet in a space
            return scores
        image, text = torch.from_numpy(pairs).to(self.encoder.device).T
        return scores + self.cosine_score((images.embedding[image] * texts.embedding[text]).sum(-1).cpu().numpy())

    @torch.inference_mode()
    def cosine_score(self, cosine: np.ndarray) -> np.ndarray:
        """What a cosine weighs beside a fused score: as much as in that score; as it is where that has none (UNIMO)."""
        model = self.encoder.model
        if not isinstance(model, UNIMO2):
            return cosine
        if self.weight is not None:
            return self.weight * cosine
        return model.contrastive_temperature(torch.from_numpy(cosine).to(self.encoder.device)).cpu().numpy()

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


def checked_pairs(images: EncodedImages, texts: EncodedTexts, pairs: np.ndarray) -> np.ndarray:
    """Numbers of images and texts as (k, 2) int64. UsageError for what was not encoded, or does not exist."""
    if not isinstance(images, EncodedImages) or not isinstance(texts, EncodedTexts):
        got, do = f"{type(images).__name__}, {type(texts).__name__}", "itm_score(images, texts) takes them as they are"
        raise UsageError("not encoded", got=got, expected="what encode_images and encode_texts return", do=do)
    numbers = np.asarray(pairs)
    inside = numbers.ndim == 2 and numbers.shape[1] == 2 and (numbers.dtype.kind in "iu" or not numbers.size)
    if not inside or (numbers < 0).any() or (numbers >= (len(images), len(texts))).any():
        got = f"an array {numbers.shape} of {numbers.dtype}"
        expected = f"(k, 2) integers: image 0 to {len(images) - 1}, text 0 to {len(texts) - 1}"
        raise UsageError("not pairs of these", where="pairs", got=got, expected=expected)
    return np.ascontiguousarray(numbers, np.int64)
