"""Words at the masked places of a text, read alone or beside an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimo.errors import UsageError
from unimo.inference.encoding import EncodedImages, Encoder, check_count, chunks, listed
from unimo.model.unified import Request

MASK = "[MASK]"
WORD_ROWS = 256  # rows the vocabulary is multiplied with at once: 50 MB of logits


@dataclass(frozen=True)
class MaskFiller:
    """The masked language model as it was trained: places of a text, and which of V words may stand there."""

    encoder: Encoder

    def row_of(self, text: str) -> tuple[np.ndarray, int]:
        """The framed ids of a text with one [MASK], and its place among them."""
        if not isinstance(text, str):
            raise UsageError("not a text", got=type(text).__name__, expected=f"a string with one {MASK}")
        parts = text.split(MASK)
        if len(parts) != 2:
            raise UsageError("not one mask", got=f"{len(parts) - 1} x {MASK}", expected=f"one {MASK}")
        tokenizer, max_length = self.encoder.tokenizer, self.encoder.max_length
        # A piece carries the space before it, so the mask takes it from the text.
        before, after = (tokenizer.encode(part) for part in (parts[0].removesuffix(" "), parts[1]))
        ids = np.array([tokenizer.cls, *before, tokenizer.mask, *after, tokenizer.sep])
        if len(ids) > max_length:
            raise UsageError(
                "the text is longer than the model reads",
                got=f"{len(ids)} tokens, [CLS] and [SEP] included",
                expected=f"at most {max_length}",
                do=f"keep what stands near the {MASK}",
            )
        return ids, 1 + len(before)

    @torch.inference_mode()
    def probabilities(self, ids: np.ndarray, places: np.ndarray, image: EncodedImages | None) -> np.ndarray:
        """(k, V) at `places` of one framed row of ids."""
        logits = torch.cat(list(self.logits([ids], [places], image, 1)))
        return logits.softmax(-1).cpu().numpy()

    @torch.inference_mode()
    def likeliest(
        self, texts: Sequence[str], images: EncodedImages | None, top_k: int, batch_size: int
    ) -> list[list[tuple[str, float]]]:
        """The pieces at the one [MASK] of each text, likeliest first. Text i is read beside image i, or alone."""
        check_count("top_k", top_k)
        found_rows = [self.row_of(text) for text in listed(texts, "text")]
        if images is not None and len(images) != len(found_rows):
            raise UsageError("texts and images differ in number", got=f"{len(found_rows)} and {len(images)}")
        if not found_rows:
            return []
        rows, places = zip(*found_rows)
        logits = torch.cat(list(self.logits(rows, [np.array([place]) for place in places], images, batch_size)))
        found = logits.softmax(-1).topk(min(top_k, logits.shape[1]))
        decode = self.encoder.tokenizer.decode
        return [
            [(decode([i]), p) for i, p in zip(ids, probabilities)]
            for ids, probabilities in zip(found.indices.tolist(), found.values.tolist())
        ]

    @torch.inference_mode()
    def best(
        self,
        rows: Sequence[np.ndarray],
        places: Sequence[np.ndarray],
        labels: np.ndarray,
        images: EncodedImages | None,
        batch_size: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """At every place of every framed row, end to end: (k,) the likeliest id, and (k,) the log-probability of its
        label. Row i is read beside image i, or alone."""
        found, logs = [], []
        wanted = torch.from_numpy(labels).to(self.encoder.device).split(WORD_ROWS)
        for logits, some in zip(self.logits(rows, places, images, batch_size), wanted):
            found.append(logits.argmax(-1))
            logs.append(logits.log_softmax(-1).gather(-1, some[:, None])[:, 0])
        return torch.cat(found).cpu().numpy(), torch.cat(logs).cpu().numpy()

    def logits(
        self,
        rows: Sequence[np.ndarray],
        places: Sequence[np.ndarray],
        images: EncodedImages | None,
        batch_size: int,
    ) -> Iterator[Tensor]:
        """(n, V) of so many places at a time, end to end; see `best`."""
        encoder, states = self.encoder, []
        for some in chunks(range(len(rows)), batch_size):
            towers = encoder.no_towers()
            towers.texts = packed = encoder.pack([rows[i] for i in some])
            masked = np.concatenate([first + places[i] for first, i in zip(packed.offsets.tolist(), some)])
            everyone = torch.arange(len(some), device=encoder.device)
            if images is not None:
                seen = images.pick(torch.tensor(some, device=encoder.device))
                towers.images, towers.image_lengths = seen.hidden, seen.lengths
            with encoder.autocast():
                towers.words = encoder.model.encode_texts(packed)
                encoder.model.count_votes(towers)
                request = Request(None if images is None else everyone, everyone)
                fused = encoder.model.fuse(towers, {"read": request})["read"]
                states.append(fused.words(torch.from_numpy(masked).to(encoder.device), packed))
        for some_states in torch.cat(states).split(WORD_ROWS):
            with encoder.autocast():
                logits = encoder.model.word_logits(some_states)
            yield logits.float()
