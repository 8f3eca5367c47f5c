"""Sentences that say the same in other words, by way of another language (Edunov et al. 2018; UNIMO section 3.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unimo.errors import DataError, UsageError
from unimo.extras import optional
from unimo.file_access import hash_file


class BackTranslation:
    """Sentences through another language and back, by two sequence-to-sequence models of `transformers`."""

    def __init__(self, there: str, back: str, *, device: str = "cpu", num_beams: int = 4, max_new_tokens: int = 96):
        """there, back: folders or hub names, as "Helsinki-NLP/opus-mt-en-de" and "...-de-en"."""
        self.there, self.back = (_translator(name, device) for name in (there, back))
        self.device, self.num_beams, self.max_new_tokens = device, num_beams, max_new_tokens

    def __call__(self, texts: Sequence[str], n: int) -> list[list[str]]:
        """n variants of each text: the best translation, brought back in n ways (beam search; nothing is drawn)."""
        middle = [some[0] for some in self._translate(self.there, list(texts), 1)]
        return self._translate(self.back, middle, n)

    def _translate(self, translator: tuple[Any, Any], texts: list[str], n: int) -> list[list[str]]:
        import torch

        tokenizer, model = translator
        found: list[list[str]] = []
        for begin in range(0, len(texts), 32):
            some = texts[begin : begin + 32]
            inputs = tokenizer(some, return_tensors="pt", padding=True, truncation=True, max_length=256)
            with torch.inference_mode():
                written = model.generate(
                    input_ids=inputs["input_ids"].to(self.device),
                    attention_mask=inputs["attention_mask"].to(self.device),
                    num_beams=max(self.num_beams, n),
                    num_return_sequences=n,
                    do_sample=False,
                    max_new_tokens=self.max_new_tokens,
                )
            flat = [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
            found += [flat[r : r + n] for r in range(0, len(flat), n)]
        return found


def _translator(name: str, device: str) -> tuple[Any, Any]:
    """(tokenizer, model) of a folder or hub name."""
    do = 'pip install "unimo[translate]", or leave out --translate'
    transformers = optional("transformers", "back-translation", do, where=name)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(name, use_safetensors=True)
    except ImportError as error:  # Marian's own tokenizer wants sentencepiece
        what = "the tokenizer of a translation model needs another package"
        raise UsageError(what, where=name, got=error, do=do) from error
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            "cannot load a translation model",
            where=name,
            got=error,
            expected="folder or hub name of a sequence-to-sequence model with safetensors weights and its tokenizer",
            do="correct the name, or fetch the model first (nothing is fetched with HF_HUB_OFFLINE=1)",
        ) from error
    return tokenizer, model.eval().to(device)


def pivots(options: Sequence[str]) -> list[tuple[str, str]]:
    """The (there, back) models of options written "THERE,BACK"; UsageError for anything else."""
    pairs = [tuple(name.strip() for name in option.split(",")) for option in options]
    for option, pair in zip(options, pairs):
        if len(pair) != 2 or not all(pair):
            raise UsageError(
                "not a pair of translation models",
                where="--translate",
                got=option,
                expected="THERE,BACK, as Helsinki-NLP/opus-mt-en-de,Helsinki-NLP/opus-mt-de-en",
            )
    return [(pair[0], pair[1]) for pair in pairs]


def identity(name: str) -> str:
    """What names a model in a header: its hub name, or its folder's own name with a hash over its files."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{path.name} {hash_file(path)}\n".encode())
    return f"{folder.name} {digest.hexdigest()[:16]}"
