"""Words at the blanks of a text, read alone or beside an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from unimo.errors import UsageError
from unimo.inference.encoded import EncodedImages
from unimo.inference.encoding import Encoder, ImageInput, chunks
from unimo.model.unified import Request, Towers

MASK = "[MASK]"
WORD_ROWS = 256  # rows the vocabulary is multiplied with at once: 50 MB of logits


class MaskFiller(Encoder):
    """The masked language model as it was trained: places of a text, and what may stand there (V words)."""

    @torch.inference_mode()
    def fill_mask(self, text: str, image: ImageInput | None = None, *, top_k: int = 5) -> list[tuple[str, float]]:
        """The likeliest pieces at the one [MASK] of a text, read beside an image or alone, with probabilities."""
        if not isinstance(text, str):
            raise UsageError("not a text", got=type(text).__name__, expected=f"a string with one {MASK}")
        parts = text.split(MASK)
        if len(parts) != 2:
            raise UsageError("fill_mask fills one blank", got=f"{len(parts) - 1} x {MASK}", expected=f"one {MASK}")
        # A piece carries the space before it, so the blank takes it from the text.
        before, after = (self.tokenizer.encode(part) for part in (parts[0].removesuffix(" "), parts[1]))
        ids = np.array([self.tokenizer.cls, *before, self.tokenizer.mask, *after, self.tokenizer.sep])
        if len(ids) > self.max_length:
            raise UsageError(
                "the text is longer than the model reads",
                got=f"{len(ids)} tokens, [CLS] and [SEP] included",
                expected=f"at most {self.max_length}",
                do=f"keep what stands near the {MASK}",
            )
        probabilities = self.masked_words(ids, np.array([1 + len(before)]), image)[0]
        best = np.argsort(-probabilities)[:top_k]
        return [(self.tokenizer.decode([i]), float(probabilities[i])) for i in best]

    @torch.inference_mode()
    def masked_words(self, ids: np.ndarray, places: np.ndarray, image: ImageInput | None = None) -> np.ndarray:
        """(k, V) probabilities at `places` of one framed row of ids, read beside an image or alone."""
        images = None if image is None else self.encode_images([image])
        logits = torch.cat(list(self._masked_logits([ids], [places], images)))
        return logits.softmax(-1).cpu().numpy()

    @torch.inference_mode()
    def masked_ids(
        self, rows: Sequence[np.ndarray], places: Sequence[np.ndarray], images: EncodedImages | None = None
    ) -> np.ndarray:
        """(k,) the likeliest id at every place of every framed row, end to end; row i beside image i, or alone."""
        best = [logits.argmax(-1) for logits in self._masked_logits(rows, places, images)]
        return torch.cat(best).cpu().numpy()

    def _masked_logits(
        self, rows: Sequence[np.ndarray], places: Sequence[np.ndarray], images: EncodedImages | None
    ) -> Iterator[Tensor]:
        """(n, V) of so many places at a time, end to end; see `masked_ids`."""
        states = []
        for some in chunks(range(len(rows)), self.batch_size):
            packed = self.pack([rows[i] for i in some])
            masked_rows = np.concatenate([first + places[i] for first, i in zip(packed.offsets.tolist(), some)])
            everyone = torch.arange(len(some), device=self.device)
            with self._autocast():
                words = self.model.encode_texts(packed)
                if images is None:
                    towers = Towers(self._no_images(), words, packed)
                else:
                    seen = images.pick(torch.tensor(some, device=self.device))
                    towers = Towers(seen.hidden, words, packed, image_lengths=seen.lengths)
                self.model.count_votes(towers)
                request = Request(None if images is None else everyone, everyone)
                fused = self.model.fuse(towers, {"read": request})["read"]
                states.append(fused.words(torch.from_numpy(masked_rows).to(self.device), packed))
        for some_states in torch.cat(states).split(WORD_ROWS):
            with self._autocast():
                logits = self.model.word_logits(some_states)
            yield logits.float()
