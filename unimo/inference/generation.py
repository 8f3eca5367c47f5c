"""Texts that a model writes: captions of images, and what follows from a source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from unimo.data.records import Record, seq2seq_record
from unimo.decoding.beam_search import GenerationConfig, beam, greedy, sample
from unimo.decoding.decoder import CachedDecoder, Given
from unimo.errors import UsageError
from unimo.inference.encoded import EncodedImages
from unimo.inference.encoding import Encoder, ImageInput, several
from unimo.model.unimo2 import UNIMO2
from unimo.tokenizer import Tokenizer


class Generator(Encoder):
    """Sentences word by word, by the likeliest word, by beams or by chance."""

    def caption(
        self,
        images: Iterable[ImageInput] | EncodedImages,
        *,
        tags: Sequence[str] | None = None,
        num_beams: int = 1,
        max_length: int = 50,
        min_length: int = 0,
        length_penalty: float = 0.6,
        no_repeat_ngram_size: int = 0,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """One sentence per image. tags: what is known to be on each (object names), read before. See `generate`."""
        return self.generate(
            tags,
            images,
            num_beams=num_beams,
            max_length=max_length,
            min_length=min_length,
            length_penalty=length_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            end=self.tokenizer.sep,
        )

    def generate(
        self,
        sources: Sequence[str | np.ndarray | Record] | None = None,
        images: Iterable[ImageInput] | EncodedImages | None = None,
        *,
        num_beams: int = 1,
        max_length: int = 50,
        min_length: int = 0,
        length_penalty: float = 0.6,
        no_repeat_ngram_size: int = 0,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        end: int = Tokenizer.mask,
    ) -> list[str]:
        """One text per source, per image, or per image beside its source.

        sources: strings or bare token ids (long ones are cut), or records (`unimo.data.records`). num_beams:
        hypotheses kept; 1 takes the likeliest next word each time. max_length, min_length: tokens written.
        length_penalty: of the beam. no_repeat_ngram_size: so many words in a row never come twice; 0: they may.
        temperature: draw words in proportion to their probability instead, among the top_k likeliest (0: all) and those
        that together have top_p, by `seed`. end: the token that ends a text; [SEP] for captions (spec unimo §1.5).
        """
        if sources is None and images is None:
            raise UsageError("nothing to write from", expected="sources, images, or both")
        if num_beams < 1 or max_length < 1:
            got = f"{num_beams}, {max_length}"
            raise UsageError(
                "nothing can be written like that", where="num_beams, max_length", got=got, expected="at least 1"
            )
        encoded = self.encode_images(images) if images is not None and not isinstance(images, EncodedImages) else images
        known = None if sources is None else [self._source(source) for source in several(sources, "source")]
        if encoded is not None and known is not None and len(known) != len(encoded):
            raise UsageError("sources and images differ in number", got=f"{len(known)} and {len(encoded)}")
        special = self.tokenizer
        # The published decoders forbid nothing; ours writes words.
        never = (
            () if self._as_released() else {special.cls, special.pad, special.sep, special.unk, special.mask} - {end}
        )
        limits = GenerationConfig(
            special.cls, end, min(max_length, self.max_length - 1), min_length, tuple(sorted(never))
        )
        texts = []
        for some in torch.arange(len(encoded if encoded is not None else known or ())).split(self.batch_size):
            seen = None if encoded is None else encoded.pick(some.to(self.device))
            given = Given(
                None if seen is None else seen.hidden,
                None if known is None else [known[i] for i in some.tolist()],
                None if seen is None else seen.lengths,
            )
            with self._autocast():
                decoder = CachedDecoder(self.model, given)
                if temperature is not None:
                    draw = {"temperature": temperature, "top_p": top_p}
                    ids = sample(decoder, limits, top_k=top_k, seed=seed, numbers=some.tolist(), **draw)
                elif num_beams == 1 and not no_repeat_ngram_size:
                    ids = greedy(decoder, limits)
                else:
                    found = beam(
                        decoder,
                        limits,
                        num_beams=num_beams,
                        length_penalty=length_penalty,
                        no_repeat_ngram_size=no_repeat_ngram_size,
                        word_starts=special.starts_word,
                    )
                    ids = [list(best.words) for best, *_ in found]
            texts += [" ".join(special.decode(row).split()) for row in ids]
        return texts

    def _source(self, source: str | np.ndarray | Record) -> Record:
        if isinstance(source, Record):
            return source
        ids = self.tokenizer.encode(source, max_bytes=8 * self.max_length) if isinstance(source, str) else source
        return seq2seq_record([ids], None, max_source_length=self.max_length, max_target_length=2)

    def _as_released(self) -> bool:
        return isinstance(self.model, UNIMO2) and any(vars(self.model.released).values())
