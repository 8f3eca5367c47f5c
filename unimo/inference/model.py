"""The object that `unimo.load` returns: all that a trained model answers, and where it goes to."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unimo.config import from_dict
from unimo.errors import UsageError
from unimo.inference.classification import PROMPTS, Classifier, Segments, prompted
from unimo.inference.encoding import BATCH_SIZE, EncodedImages, EncodedTexts, Encoder, ImageInput
from unimo.inference.generation import GenerationOptions, Generator, Source
from unimo.inference.mask_filling import MaskFiller
from unimo.inference.matching import Matcher, trained_weight
from unimo.model.build import ModelSettings
from unimo.model.unified import Unified
from unimo.model.unimo2 import UNIMO2
from unimo.tokenizer import Tokenizer
from unimo.weights.loading import load_model


class Pipeline:
    """A trained model with its tokenizer and image transform: raw inputs in, answers out.

    N images · M texts · D width

    Images are paths, bytes, PIL images, (H, W, 3) uint8 arrays or (3, H, W) tensors; for UNIMO, regions of a detector
    (`unimo.data.regions.image_regions`). batch_size: inputs of a forward pass; answers depend on it by rounding only,
    and with 1 not at all. No call changes the object, so threads may share one. facts: what is known of its run.
    frozen: the weights will not change any more; in bf16 or fp16 copies are kept, not made at every call.
    """

    def __init__(
        self,
        model: Unified,
        *,
        precision: str = "auto",
        max_length: int | None = None,
        facts: Mapping[str, Any] | None = None,
        frozen: bool = False,
    ):
        self.facts: dict[str, Any] = dict(facts or {})
        self.encoder = encoder = Encoder(model, precision=precision, max_length=max_length, frozen=frozen)
        self.model, self.tokenizer, self.device, self.dtype = model, encoder.tokenizer, encoder.device, encoder.dtype
        self.side, self.max_length = encoder.side, encoder.max_length
        self.sees_regions = encoder.side is None
        self.matcher = Matcher(encoder, trained_weight(self.facts.get("settings")) if encoder.side else None)
        self.generator, self.mask_filler = Generator(encoder), MaskFiller(encoder)
        self.classifier = Classifier(encoder, self.facts.get("path"))

    # ---- embeddings -----------------------------------------------------------------------------------------------

    def encode_images(self, images: Iterable[ImageInput], *, batch_size: int = BATCH_SIZE) -> EncodedImages:
        """Images after their tower, for `match`, `generate` and `caption`."""
        return self.encoder.encode_images(images, batch_size)

    def encode_texts(self, texts: Iterable[str | np.ndarray], *, batch_size: int = BATCH_SIZE) -> EncodedTexts:
        """Texts (strings, or token ids without specials; long ones are cut) after their tower, for `match`."""
        return self.encoder.encode_texts(texts, batch_size)

    @overload
    def encode_image(self, images: Iterable[ImageInput], *, batch_size: int = ...) -> np.ndarray: ...
    @overload
    def encode_image(
        self, images: Iterable[ImageInput], *, convert_to_tensor: Literal[True], batch_size: int = ...
    ) -> Tensor: ...
    def encode_image(
        self, images: Iterable[ImageInput], *, convert_to_tensor: bool = False, batch_size: int = BATCH_SIZE
    ) -> np.ndarray | Tensor:
        """(N, D) float32 embeddings, L2-normalised; images and texts share this space. A tensor stays on the device."""
        embedding = self.encoder.embed_images(images, batch_size)
        return embedding if convert_to_tensor else embedding.cpu().numpy()

    @overload
    def encode_text(self, texts: Iterable[str], *, batch_size: int = ...) -> np.ndarray: ...
    @overload
    def encode_text(
        self, texts: Iterable[str], *, convert_to_tensor: Literal[True], batch_size: int = ...
    ) -> Tensor: ...
    def encode_text(
        self, texts: Iterable[str], *, convert_to_tensor: bool = False, batch_size: int = BATCH_SIZE
    ) -> np.ndarray | Tensor:
        """(M, D) float32 embeddings, L2-normalised. A tensor stays on the device."""
        embedding = self.encoder.embed_texts(texts, batch_size)
        return embedding if convert_to_tensor else embedding.cpu().numpy()

    def similarity(
        self, images: Iterable[ImageInput], texts: Iterable[str], *, batch_size: int = BATCH_SIZE
    ) -> np.ndarray:
        """(N, M) cosines of every image with every text."""
        return self.encode_image(images, batch_size=batch_size) @ self.encode_text(texts, batch_size=batch_size).T

    # ---- matching -------------------------------------------------------------------------------------------------

    def itm_score(
        self, images: Iterable[ImageInput], texts: Sequence[str], *, batch_size: int = BATCH_SIZE
    ) -> np.ndarray:
        """(N, M) fused image-text matching score of every image with every text; larger fits better. See `match`."""
        seen = self.encode_images(images, batch_size=batch_size)
        read = self.encode_texts(texts, batch_size=batch_size)
        pairs = np.stack(np.meshgrid(np.arange(len(seen)), np.arange(len(read)), indexing="ij"), -1).reshape(-1, 2)
        return self.match(seen, read, pairs, batch_size=batch_size).reshape(len(seen), len(read))

    def match(
        self,
        images: EncodedImages,
        texts: EncodedTexts,
        pairs: np.ndarray,
        *,
        cosine_weight: float | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> np.ndarray:
        """Fused score of (image, text) pairs, (k, 2) numbers -> (k,): matching log-odds + cosine_weight x cosine.

        cosine_weight: None for the one the model was trained by: 1 / temperature after pre-training.
        """
        return self.matcher.match(images, texts, pairs, cosine_weight, batch_size)

    def caption_log_likelihood(
        self, images: EncodedImages, texts: EncodedTexts, pairs: np.ndarray, *, batch_size: int = BATCH_SIZE
    ) -> np.ndarray:
        """log P(text as a caption | image) of (image, text) pairs, (k, 2) numbers -> (k,), in nats, its end included.

        By the words that `caption` writes. Of texts about one image longer ones are less likely: see
        `match_by_likelihood`.
        """
        return self.matcher.caption_log_likelihood(images, texts, pairs, batch_size)

    def match_by_likelihood(
        self,
        images: EncodedImages,
        texts: EncodedTexts,
        pairs: np.ndarray,
        *,
        beside: EncodedImages | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> np.ndarray:
        """How much likelier an image makes a text as its caption, + the contrastive score: (k, 2) numbers -> (k,).

        beside: a few images, by which each text is judged in general; None where each text is compared with itself
        only, beside several images.
        """
        return self.matcher.match_by_likelihood(images, texts, pairs, beside, batch_size)

    # ---- generation -----------------------------------------------------------------------------------------------

    def caption(
        self,
        images: Iterable[ImageInput] | EncodedImages,
        *,
        tags: Sequence[str] | None = None,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> list[str]:
        """One sentence per image. tags: what is known to be on each (object names). options: as of `generate`."""
        return self.generate(tags, images, batch_size=batch_size, end=self.tokenizer.sep, **options)

    def generate(
        self,
        sources: Sequence[Source] | None = None,
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
        batch_size: int = BATCH_SIZE,
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
        options = GenerationOptions(
            num_beams,
            max_length,
            min_length,
            length_penalty,
            no_repeat_ngram_size,
            temperature,
            top_k,
            top_p,
            seed,
            end,
        )
        if images is not None and not isinstance(images, EncodedImages):
            images = self.encode_images(images, batch_size=batch_size)
        return self.generator.generate(sources, images, options, batch_size)

    # ---- masked words ---------------------------------------------------------------------------------------------

    def fill_mask(self, text: str, image: ImageInput | None = None, *, top_k: int = 5) -> list[tuple[str, float]]:
        """The likeliest pieces at the one [MASK] of a text, read beside an image or alone, with probabilities."""
        return self.fill_masks([text], None if image is None else [image], top_k=top_k)[0]

    def fill_masks(
        self,
        texts: Sequence[str],
        images: Iterable[ImageInput] | None = None,
        *,
        top_k: int = 5,
        batch_size: int = BATCH_SIZE,
    ) -> list[list[tuple[str, float]]]:
        """`fill_mask` of several texts, each beside its image or all alone."""
        seen = None if images is None else self.encode_images(images, batch_size=batch_size)
        return self.mask_filler.likeliest(texts, seen, top_k, batch_size)

    # ---- classes --------------------------------------------------------------------------------------------------

    def classify(
        self,
        images: Iterable[ImageInput] | None = None,
        names: Sequence[str] | None = None,
        *,
        texts: Sequence[Segments] | None = None,
        prompts: Sequence[str] = PROMPTS,
        batch_size: int = BATCH_SIZE,
    ) -> np.ndarray:
        """(N, k) probabilities of k classes.

        With names, from these alone (zero-shot): cosine of each image with the mean of the prompted names. Without,
        by the head of a fine-tuned model: of each image, each text (or pair of texts), or each image beside its
        text; the classes are `labels`. Where a question may have several answers, each has a probability of its own.
        """
        if names is None:
            return self.classifier.probabilities(self.classifier.logits(images, texts, batch_size))
        if images is None:
            raise UsageError("nothing to classify by its name", expected="images")
        weights = self.class_embeddings(names, prompts).to(self.device)
        cosine = self.encode_image(images, convert_to_tensor=True, batch_size=batch_size) @ weights.T
        if isinstance(self.model, UNIMO2):
            cosine = self.model.contrastive_temperature(cosine)
        return cosine.softmax(-1).detach().cpu().numpy()

    def class_embeddings(self, names: Sequence[str], prompts: Sequence[str] = PROMPTS) -> Tensor:
        """(len(names), D): each class as the normalised mean of its prompts' embeddings. prompts: see `prompted`."""
        embedding = torch.from_numpy(self.encode_text(prompted(names, prompts)))
        embedding = embedding.unflatten(0, (len(names), len(prompts)))
        return F.normalize(embedding.mean(1), dim=-1)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes or answers of a fine-tuned model, in the order of its probabilities."""
        return self.classifier.head.settings.labels

    def answer(
        self,
        questions: Sequence[Segments] | None = None,
        images: Iterable[ImageInput] | None = None,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> list[str | float]:
        """The likeliest answer or class of each row by the head of a fine-tuned model; of a regression, its number."""
        return self.classifier.answers(self.classifier.logits(images, questions, batch_size))

    # ---- the model itself -----------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes the model as a folder that `unimo.load` and the hub understand, with the facts of its run."""
        from unimo.weights.saving import save_pretrained

        settings = from_dict(ModelSettings, self.facts["settings"]["model"])
        run = {key: self.facts[key] for key in ("step", "elapsed", "data") if key in self.facts}
        facts = {**self.facts.get("facts", {}), **run, "run": self.facts["settings"]}
        return save_pretrained(self.model, folder, settings, facts=facts)

    def push_to_hub(self, name: str, *, private: bool = True, token: str | None = None) -> str:
        """Saves the model for a moment and uploads it as `name` (owner/model); returns where it is."""
        from unimo.weights.saving import push_to_hub

        with tempfile.TemporaryDirectory() as folder:
            saved = self.save_pretrained(Path(folder) / name.rpartition("/")[2])
            return push_to_hub(saved, name, private=private, token=token)

    def __repr__(self) -> str:
        return "\n".join(self._described())

    def _described(self) -> Iterable[str]:
        model, path, step = self.model, self.facts.get("path"), self.facts.get("step")
        parameters = f"{sum(p.numel() for p in model.parameters()):,} parameters"
        trained = f", {step:,} steps" if step else ""
        yield f"{'UNIMO-2' if self.side else 'UNIMO'}, {parameters}{trained}{f', {path}' if path else ''}"
        yield f"  images     {f'{self.side} x {self.side} pixels' if self.side else 'regions of a detector'}"
        yield f"  texts      at most {self.max_length} tokens, {self.tokenizer.vocab_size:,} in the vocabulary"
        yield f"  embedding  {model.width} numbers"
        head = "" if model.head is None else f"; {model.head.settings.task}: {', '.join(self.labels[:5]) or 'a number'}"
        yield f"  heads      words{', image-text matching' if model.matching is not None else ''}{head}"
        yield f"  runs on    {self.device}, {str(self.dtype).removeprefix('torch.')}"


def load(
    source: str | Path, *, device: str | None = None, precision: str = "auto", revision: str | None = None
) -> Pipeline:
    """The model of a run, a checkpoint, a saved folder, a downloaded name or a name on the hub, ready to answer.

    device: cpu, cuda, cuda:1, mps; None: cuda where there is one. precision: auto, fp32, bf16 or fp16.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as fault:  # no such name, or none on this machine
        got, expected = f"{device}: {str(fault).splitlines()[0][:120]}", "cpu, or a GPU of this machine: cuda, mps"
        raise UsageError("this device cannot be used", where="device", got=got, expected=expected) from fault
    model, saved = load_model(source, device=device, revision=revision)
    facts = {"path": str(saved.path), "step": saved.step, **saved.state}
    return Pipeline(model, precision=precision, facts=facts, frozen=True)


def identity(pipeline: Pipeline) -> dict[str, Any]:
    """What decides its embeddings but for rounding: SHA-256 over settings, weights and their names; and precision."""
    settings = pipeline.facts.get("settings")
    model = settings.get("model") if isinstance(settings, dict) else None
    digest = hashlib.sha256(json.dumps([type(pipeline.model).__name__, model], sort_keys=True).encode())
    for name, weight in sorted(pipeline.model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().float().numpy().tobytes())  # numpy has no bfloat16
    return {"sha256": digest.hexdigest(), "precision": str(pipeline.dtype).removeprefix("torch.")}
