"""Pseudo-log-likelihood of rewritten words by a masked language model: how well they fit the rest of their sentence.

    score(text) = mean over its changed words of  1/k * sum of log p(piece | text without the k pieces of the word)

The pieces of a word are masked together, for they vouch for one another; other changed words are read as they stand
(Salazar et al. 2020 mask one piece at a time). An article that changes with its word is masked with it.

    n texts · P masked places · V words
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimo.errors import DataError
from unimo.extras import optional
from unimo.json_files import load_json
from unimo.rewriting.back_translation import identity as files_identity
from unimo.rewriting.grammar import Span

_TOKENS = 1024  # of a forward pass, padding included: some libraries make logits of all of them
_WORD = re.compile(r"(?:\b[Aa]n? )?[^ ]+")
_OWN = ("unimo", "unimo-2")  # as `unimo.weights.saving` names them in config.json


class MaskedLanguageModel(ABC):
    """Log-probabilities of masked pieces. identity: what decides them but for rounding."""

    identity: str
    mask: int

    @abstractmethod
    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        """The ids of a framed text, cut to what the model reads, and the characters of each; (0, 0) of the frame."""

    @abstractmethod
    def logits(self, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> Tensor:
        """(P, V) at `places` of framed rows of ids, end to end."""

    def scores(self, texts: Sequence[str], changed: Sequence[Sequence[Span]]) -> np.ndarray:
        """(n,) of texts whose changes are these characters: the higher, the better they fit. 0 where no changed word
        is among those that the model reads."""
        rows: dict[tuple[tuple[int, ...], tuple[int, ...]], list[tuple[int, list[int]]]] = {}  # -> (text, labels)
        for number, (text, spans) in enumerate(zip(texts, changed)):
            ids, characters = self.encode(text)
            for begin, end in (word.span() for span in spans for word in _WORD.finditer(text, *span)):
                places = tuple(k for k, (a, b) in enumerate(characters) if a < end and begin < b)
                row = tuple(self.mask if k in places else one for k, one in enumerate(ids))
                if places:  # none behind what the model reads
                    rows.setdefault((row, places), []).append((number, [ids[k] for k in places]))
        sums, words = np.zeros(len(texts)), np.zeros(len(texts))
        waiting = sorted(rows, key=lambda row: len(row[0]))  # of like length: little padding
        while waiting:
            size = max(1, _TOKENS // len(waiting[-1][0]))
            some, waiting = waiting[-size:], waiting[:-size]
            logs = self.logits([row for row, _ in some], [places for _, places in some]).log_softmax(-1)
            for key, own in zip(some, logs.split([len(places) for _, places in some])):
                numbers, labels = zip(*rows[key])
                means = own.gather(1, torch.tensor(labels, device=own.device).T).mean(0)
                np.add.at(sums, list(numbers), means.double().cpu().numpy())
                np.add.at(words, list(numbers), 1)
        return sums / np.maximum(words, 1)


def open_masked_lm(source: str | Path, device: str = "cpu") -> MaskedLanguageModel:
    """A run or saved model of ours, or a folder of `transformers` with a masked language model.

    Raises DataError for a folder without such a head, a mask or safetensors, and what `unimo.load` raises.
    """
    config = Path(source) / "config.json"
    foreign = config.is_file() and load_json(config).get("model_type") not in _OWN
    return _Transformers(Path(source), device) if foreign else _Unimo(source, device)


class _Unimo(MaskedLanguageModel):
    """A model of ours, which reads without an image."""

    def __init__(self, source: str | Path, device: str):
        from unimo.inference.model import identity, load

        pipeline = load(source, device=device, precision="fp32")
        self.filler, self.encoder, self.tokenizer = pipeline.mask_filler, pipeline.encoder, pipeline.tokenizer
        self.identity, self.mask = identity(pipeline)["sha256"], self.tokenizer.mask

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        ids = self.encoder.frame(text).tolist()
        return ids, [(0, 0), *self.tokenizer.spans(text)[: len(ids) - 2], (0, 0)]

    @torch.inference_mode()
    def logits(self, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> Tensor:
        framed, masked = [np.array(row) for row in rows], [np.array(some) for some in places]
        return torch.cat(list(self.filler.logits(framed, masked, None, len(framed))))


class _Transformers(MaskedLanguageModel):
    """A folder of `transformers`."""

    def __init__(self, folder: Path, device: str):
        do = 'pip install "unimo[translate]", or name a run of unimo'
        transformers = optional("transformers", "this masked language model", do, where=folder)
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            self.model, report = transformers.AutoModelForMaskedLM.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **options
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise _unfit(folder, error) from error
        if report["missing_keys"]:  # transformers would draw a head at random
            raise _unfit(folder, f"no weights for {', '.join(sorted(report['missing_keys'])[:3])}")
        if not self.tokenizer.is_fast or None in (self.tokenizer.mask_token_id, self.tokenizer.pad_token_id):
            raise _unfit(folder, "a tokenizer without [MASK] or [PAD], or that does not tell characters")
        self.model.eval().to(device)
        self.device, self.length = device, getattr(self.model.config, "max_position_embeddings", 512) - 2
        self.identity, self.mask = files_identity(str(folder)), self.tokenizer.mask_token_id

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        found = self.tokenizer(text, truncation=True, max_length=self.length, return_offsets_mapping=True)
        return found["input_ids"], found["offset_mapping"]

    @torch.inference_mode()
    def logits(self, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> Tensor:
        inputs = self.tokenizer.pad({"input_ids": list(map(list, rows))}, return_tensors="pt").to(self.device)
        logits = self.model(**inputs).logits
        return torch.cat([row[list(some)] for row, some in zip(logits, places)]).float()


def _unfit(folder: Path, got: object) -> DataError:
    expected = "a masked language model of transformers with its head in safetensors, and its tokenizer"
    do = "name such a folder, or a run of unimo"
    return DataError("cannot load a masked language model", where=folder, got=got, expected=expected, do=do)
