"""Texts that a model writes: captions of images, and what follows from a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unimo.data.records import Record, seq2seq_record
from unimo.decoding.beam_search import GenerationConfig, beam, greedy, sample
from unimo.decoding.decoder import CachedDecoder, Given
from unimo.errors import UsageError
from unimo.inference.encoding import EncodedImages, Encoder, check_count, listed
from unimo.model.unimo2 import UNIMO2
from unimo.tokenizer import Tokenizer

Source = str | np.ndarray | Record


@dataclass(frozen=True)
class GenerationOptions:
    """How a text is written; the keyword arguments of `Pipeline.generate`."""

    num_beams: int = 1
    max_length: int = 50
    min_length: int = 0
    length_penalty: float = 0.6
    no_repeat_ngram_size: int = 0
    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    end: int = Tokenizer.mask

    def __post_init__(self) -> None:
        for name, least in (("num_beams", 1), ("max_length", 1), ("min_length", 0), ("no_repeat_ngram_size", 0)):
            check_count(name, getattr(self, name), least)
        check_count("top_k", self.top_k, 0)
        if self.min_length > self.max_length:
            where, got = "min_length, max_length", f"{self.min_length}, {self.max_length}"
            raise UsageError("a text cannot be as long as that", where=where, got=got, expected="the first not larger")
        if self.temperature is None and (self.top_k or self.top_p != 1):
            got, do = f"{self.top_k}, {self.top_p}", "give a temperature, such as 1.0, to draw words"
            raise UsageError("nothing is drawn without a temperature", where="top_k, top_p", got=got, do=do)
        if self.temperature is not None and (self.num_beams > 1 or self.no_repeat_ngram_size):
            where, got = "num_beams, no_repeat_ngram_size", f"{self.num_beams}, {self.no_repeat_ngram_size}"
            expected = "a temperature, which draws words, or beams, which search for the likeliest"
            raise UsageError("words are drawn one by one, without beams", where=where, got=got, expected=expected)


@dataclass(frozen=True)
class Generator:
    """Sentences word by word: by the likeliest word, by beams or by chance."""

    encoder: Encoder

    @torch.inference_mode()
    def generate(
        self,
        sources: Sequence[Source] | None,
        images: EncodedImages | None,
        options: GenerationOptions,
        batch_size: int,
    ) -> list[str]:
        """One text per source, per image, or per image beside its source."""
        known = None if sources is None else [self._source(source) for source in listed(sources, "source")]
        if images is not None and known is not None and len(known) != len(images):
            raise UsageError("sources and images differ in number", got=f"{len(known)} and {len(images)}")
        found: dict[int, Sequence[int]] = {}
        order = self._order(known, len(images if images is not None else known or ()))
        for some in order.split(check_count("batch_size", batch_size)):
            seen = None if images is None else images.pick(some.to(self.encoder.device))
            given = Given(
                None if seen is None else seen.hidden,
                None if known is None else [known[i] for i in some.tolist()],
                None if seen is None else seen.lengths,
            )
            with self.encoder.autocast():
                written = self._write(CachedDecoder(self.encoder.model, given), options, some.tolist())
            found |= zip(some.tolist(), written)
        return [" ".join(self.encoder.tokenizer.decode(found[i]).split()) for i in sorted(found)]

    def _order(self, known: Sequence[Record] | None, n: int) -> torch.Tensor:
        """The sequences with sources of similar length side by side; as given where padding is read, as released."""
        if known is None or self._as_released:
            return torch.arange(n)
        return torch.from_numpy(np.argsort([len(one.ids) for one in known], kind="stable"))

    @property
    def _as_released(self) -> bool:
        model = self.encoder.model
        return isinstance(model, UNIMO2) and any(vars(model.released).values())

    def _write(self, decoder: CachedDecoder, options: GenerationOptions, numbers: list[int]) -> Sequence[Sequence[int]]:
        """The ids of each sequence. numbers: of the sequences among all of the call, which seed sampling."""
        limits = self._limits(options)
        if options.temperature is not None:
            draw = {"temperature": options.temperature, "top_p": options.top_p}
            return sample(decoder, limits, top_k=options.top_k, seed=options.seed, numbers=numbers, **draw)
        if options.num_beams == 1 and not options.no_repeat_ngram_size:
            return greedy(decoder, limits)
        found = beam(
            decoder,
            limits,
            num_beams=options.num_beams,
            length_penalty=options.length_penalty,
            no_repeat_ngram_size=options.no_repeat_ngram_size,
            word_starts=self.encoder.tokenizer.starts_word,
        )
        return [best.words for best, *_ in found]

    def _limits(self, options: GenerationOptions) -> GenerationConfig:
        special = self.encoder.tokenizer
        blocked = {special.cls, special.pad, special.sep, special.unk, special.mask} - {options.end}
        return GenerationConfig(
            special.cls,
            options.end,
            min(options.max_length, self.encoder.max_length - 1),
            options.min_length,
            # The published decoders forbid nothing; ours writes words.
            () if self._as_released else tuple(sorted(blocked)),
        )

    def _source(self, source: Source) -> Record:
        if isinstance(source, Record):
            return source
        max_length = self.encoder.max_length
        return seq2seq_record([self.encoder.ids(source)], None, max_source_length=max_length, max_target_length=2)
