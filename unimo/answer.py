"""What a trained model can be asked, from raw pictures and strings: the object `unimo.load` returns.

N pictures · M texts · D width

model = unimo.load("runs/scenes")
model.similarity(["dog.jpg"], ["a dog", "a cat"])      # (1, 2) cosines
model.caption(["dog.jpg"])                             # ["a dog runs on the beach"]
model.fill_mask("a red circle is [MASK] of a square")  # [(" left", 0.91), ...]
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unimo.batch import TEXT, Texts, pad_texts
from unimo.config import from_dict
from unimo.data.augment import squeeze
from unimo.data.images import load_rgb
from unimo.data.records import Record, seq2seq_record
from unimo.data.regions import PictureRegions, stack_regions
from unimo.data.segments import joined
from unimo.errors import UsageError
from unimo.generation import Cached, Given
from unimo.machine import autocast_dtype
from unimo.model import pretrained
from unimo.model.build import ModelSettings
from unimo.model.loading import load_model
from unimo.model.task_heads import TaskHead
from unimo.model.unified import Request, Towers, Unified
from unimo.model.unimo import UNIMO
from unimo.model.unimo2 import UNIMO2
from unimo.search import Limits, beam, greedy, sample
from unimo.tokenizer import Tokenizer

Picture = str | Path | bytes | Image.Image | np.ndarray | PictureRegions
MASK = "[MASK]"
WORD_ROWS = 256  # rows the vocabulary is multiplied with at once: 50 MB of logits
RELEASED_COSINE_WEIGHT = 0.3
PROMPTS = ("{}", "a {}", "a picture of a {}")


@dataclass
class EncodedImages:
    """Pictures after their tower: hidden (N, R, D), embedding (N, D), votes (N, C) or None.

    lengths: (N,) rows of each picture that are there, or None: all R. (R = 1 + P patches, or 1 + regions.)
    """

    hidden: Tensor
    embedding: Tensor
    votes: Tensor | None
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def pick(self, numbers: Tensor) -> EncodedImages:
        """Some of the pictures, in the order of `numbers` (n,)."""
        votes, lengths = (None if part is None else part[numbers] for part in (self.votes, self.lengths))
        return EncodedImages(self.hidden[numbers], self.embedding[numbers], votes, lengths)


@dataclass
class EncodedTexts:
    """Texts after their tower: hidden (T, D) packed, embedding (M, D), votes (M, C) or None."""

    texts: Texts
    hidden: Tensor
    embedding: Tensor
    votes: Tensor | None

    def __len__(self) -> int:
        return len(self.texts)

    def pick(self, numbers: Tensor) -> EncodedTexts:
        """Some of the texts, in the order of `numbers` (n,)."""
        lengths = self.texts.lengths[numbers]
        ends = lengths.cumsum(0)
        shift = (self.texts.offsets[numbers] - (ends - lengths)).repeat_interleave(lengths)
        rows = torch.arange(len(shift), device=shift.device) + shift
        ids, positions, roles = (part[rows] for part in (self.texts.ids, self.texts.positions, self.texts.roles))
        votes = None if self.votes is None else self.votes[numbers]
        packed = Texts(ids, positions, roles, torch.cat([ends.new_zeros(1), ends]))
        return EncodedTexts(packed, self.hidden[rows], self.embedding[numbers], votes)


class Answerer:
    """A model with its tokenizer and picture pipeline. Answers do not depend on how inputs are batched."""

    def __init__(
        self, model: Unified, *, precision: str = "auto", batch: int = 64, longest: int | None = None, facts: Any = None
    ):
        self.model, self.tokenizer, self.size_of_batch = model.eval(), Tokenizer.default(), batch
        self.device = next(model.parameters()).device
        self.dtype = autocast_dtype(precision, self.device)
        self.side = model.pixels if isinstance(model, UNIMO2) else None
        self.sees_regions = isinstance(model, UNIMO)
        self.longest = longest or model.words.position.num_embeddings - 2
        self.facts = facts or {}
        self.trained_weight = _cosine_weight(self.facts.get("settings")) if self.side else None

    # ---- towers ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode_images(self, pictures: Iterable[Picture]) -> EncodedImages:
        """Runs the image tower once over every picture (path, bytes, PIL image or (H, W, 3) uint8 array).

        UNIMO sees regions: it takes what `unimo.data.regions.picture_regions` makes of a detector's answer.
        """
        hidden, embedding, votes, lengths = [], [], [], []
        for some in _chunks(pictures, self.size_of_batch):
            with self._autocast():
                towers = self._see(some)
                self.model.count_votes(towers)
                embedding.append(self.model.embed(towers, "image"))
            hidden.append(towers.images)
            lengths.append(towers.image_lengths)
            votes.append(towers.image_votes)
        if not hidden:
            raise UsageError("no pictures were given", expected="at least one")
        longest = max(part.shape[1] for part in hidden)
        states = torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in hidden])
        return EncodedImages(states, torch.cat(embedding), _joined(votes), _joined(lengths))

    @torch.inference_mode()
    def encode_texts(self, texts: Iterable[str | np.ndarray]) -> EncodedTexts:
        """Runs the text tower once over every text (a string, or token ids without specials); long ones are cut."""
        rows = [self.frame(text) for text in texts]
        if not rows:
            raise UsageError("no texts were given", expected="at least one")
        packs, hidden, embedding, votes = [], [], [], []
        for some in _chunks(rows, 4 * self.size_of_batch):
            packs.append(packed := self.pack(some))
            with self._autocast():
                towers = Towers(self._no_images(), self.model.encode_texts(packed), packed)
                self.model.count_votes(towers)
                embedding.append(self.model.embed(towers, "text"))
            hidden.append(towers.words)
            votes.append(towers.text_votes)
        return EncodedTexts(_end_to_end(packs), torch.cat(hidden), torch.cat(embedding), _joined(votes))

    @torch.inference_mode()
    def match(
        self, images: EncodedImages, texts: EncodedTexts, pairs: np.ndarray, *, cosine_weight: float | None = None
    ) -> np.ndarray:
        """Fused score of (picture, text) pairs, (k, 2) -> (k,): matching log-odds + weight x cosine.

        Pre-training draws the negatives of matching in proportion to exp(cosine / temperature), so its log-odds say
        what is left to say after the cosine: by default the weight is 1 / temperature, which makes the sum the
        log-probability of the pair up to a constant. (The released score of UNIMO-2 is the logit of a match + 0.3 x
        cosine, spec unimo2 §6.1; that of UNIMO is its head's alone.) A model fine-tuned for retrieval by another
        weight keeps that one.
        Towers and votes are the cached ones; only the Grounded Transformer runs per pair. Where a picture does not look
        at its texts (UNIMO's prefix fusion), pairs side by side with the same picture hold it once.
        """
        self.require_matching()
        cosine_weight = self.trained_weight if cosine_weight is None else cosine_weight
        scores = []
        numbers = torch.from_numpy(np.ascontiguousarray(pairs, np.int64)).to(self.device)
        for some in numbers.split(self.size_of_batch):
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

    def require_matching(self) -> None:
        """Raises UsageError if the model has no matching head."""
        if self.model.matching is None:
            raise UsageError(
                "this model does not match pictures with texts",
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

    @torch.inference_mode()
    def codes(self, images: EncodedImages | None, texts: EncodedTexts | None) -> np.ndarray | None:
        """Entries chosen by pictures, by texts, or by picture i beside text i; None without a dictionary.

        (n, K) the K most voted of each; with the method "normal" (voters,) the nearest of every voting position.
        """
        dictionary = self.model.dictionary
        if dictionary is None:
            return None
        assert isinstance(self.model, UNIMO2)
        if dictionary.method == "topk":
            votes = [side.votes for side in (images, texts) if side is not None and side.votes is not None]
            return dictionary.choose(torch.stack(votes).sum(0)).cpu().numpy()
        voters = []
        if images is not None:
            voters.append(dictionary.positions_of(images.hidden[:, 1:], "image").flatten(0, 1))
        if texts is not None:
            voters.append(dictionary.positions_of(texts.hidden, "text")[self.model.text_voters(texts.texts)])
        return torch.cat([dictionary.nearest(some) for some in torch.cat(voters).split(8192)]).cpu().numpy()

    # ---- answers --------------------------------------------------------------------------------------------------

    def embed_image(self, pictures: Iterable[Picture]) -> np.ndarray:
        """(N, D) float32, L2-normalised: pictures and texts share this space."""
        return self.encode_images(pictures).embedding.cpu().numpy()

    def embed_text(self, texts: Iterable[str]) -> np.ndarray:
        """(M, D) float32, L2-normalised."""
        return self.encode_texts(texts).embedding.cpu().numpy()

    def similarity(self, pictures: Iterable[Picture], texts: Iterable[str]) -> np.ndarray:
        """(N, M) cosines of every picture with every text."""
        return self.embed_image(pictures) @ self.embed_text(texts).T

    def caption(
        self,
        pictures: Iterable[Picture] | EncodedImages,
        *,
        tags: Sequence[str] | None = None,
        beams: int = 1,
        longest: int = 50,
        shortest: int = 0,
        length_penalty: float = 0.6,
        repeat_trigrams: bool = True,
    ) -> list[str]:
        """One sentence per picture. tags: what is known to be on each (object names), read before. See `write`."""
        return self.write(
            tags,
            pictures,
            beams=beams,
            longest=longest,
            shortest=shortest,
            length_penalty=length_penalty,
            repeat_trigrams=repeat_trigrams,
            end=self.tokenizer.sep,
        )

    def write(
        self,
        sources: Sequence[str | np.ndarray | Record] | None = None,
        pictures: Iterable[Picture] | EncodedImages | None = None,
        *,
        beams: int = 1,
        longest: int = 50,
        shortest: int = 0,
        length_penalty: float = 0.6,
        repeat_trigrams: bool = True,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        end: int = Tokenizer.mask,
    ) -> list[str]:
        """One text per source, per picture, or per picture beside its source.

        sources: strings, bare token ids, or records (`unimo.data.records`). beams: hypotheses kept; 1 takes the
        likeliest next word each time. longest, shortest: tokens written. length_penalty: of the beam. repeat_trigrams:
        whether three words may stand twice. temperature: draw words in proportion to their probability instead, among
        the top_k likeliest (0: all) and those that together have top_p, by `seed`. end: the token that ends a text;
        [SEP] for captions (spec unimo §1.5).
        """
        if sources is None and pictures is None:
            raise UsageError("nothing to write from", expected="sources, pictures, or both")
        images = (
            self.encode_images(pictures)
            if pictures is not None and not isinstance(pictures, EncodedImages)
            else pictures
        )
        known = None if sources is None else [self._source(source) for source in sources]
        if images is not None and known is not None and len(known) != len(images):
            raise UsageError("sources and pictures differ in number", got=f"{len(known)} and {len(images)}")
        special = self.tokenizer
        # The published decoders forbid nothing; ours writes words.
        never = (
            () if self._as_released() else {special.cls, special.pad, special.sep, special.unk, special.mask} - {end}
        )
        limits = Limits(special.cls, end, min(longest, self.longest - 1), shortest, tuple(sorted(never)))
        texts = []
        for some in torch.arange(len(images if images is not None else known or ())).split(self.size_of_batch):
            seen = None if images is None else images.pick(some.to(self.device))
            given = Given(
                None if seen is None else seen.hidden,
                None if known is None else [known[i] for i in some.tolist()],
                None if seen is None else seen.lengths,
            )
            with self._autocast():
                writer = Cached(self.model, given)
                if temperature is not None:
                    draw = {"temperature": temperature, "top_p": top_p}
                    ids = sample(writer, limits, top_k=top_k, seed=seed, numbers=some.tolist(), **draw)
                elif beams == 1 and repeat_trigrams:
                    ids = greedy(writer, limits)
                else:
                    starts = None if repeat_trigrams else special.starts_word
                    found = beam(writer, limits, width=beams, length_penalty=length_penalty, word_starts=starts)
                    ids = [list(best.words) for best, *_ in found]
            texts += [" ".join(special.decode(row).split()) for row in ids]
        return texts

    def _source(self, source: str | np.ndarray | Record) -> Record:
        if isinstance(source, Record):
            return source
        ids = self.tokenizer.encode(source, max_bytes=8 * self.longest) if isinstance(source, str) else source
        return seq2seq_record([ids], None, longest_source=self.longest, longest_target=2)

    def _as_released(self) -> bool:
        return isinstance(self.model, UNIMO2) and any(vars(self.model.released).values())

    @torch.inference_mode()
    def fill_mask(self, text: str, picture: Picture | None = None, *, top: int = 5) -> list[tuple[str, float]]:
        """The likeliest pieces at the one [MASK] of a text, read beside a picture or alone, with probabilities."""
        parts = text.split(MASK)
        if len(parts) != 2:
            raise UsageError("fill_mask fills one blank", got=f"{len(parts) - 1} x {MASK}", expected=f"one {MASK}")
        # A piece carries the space before it, so the blank takes it from the text.
        before, after = (self.tokenizer.encode(part) for part in (parts[0].removesuffix(" "), parts[1]))
        ids = np.array([self.tokenizer.cls, *before, self.tokenizer.mask, *after, self.tokenizer.sep])
        probabilities = self.masked_words(ids, np.array([1 + len(before)]), picture)[0]
        best = np.argsort(-probabilities)[:top]
        return [(self.tokenizer.decode([i]), float(probabilities[i])) for i in best]

    @torch.inference_mode()
    def masked_words(self, ids: np.ndarray, places: np.ndarray, picture: Picture | None = None) -> np.ndarray:
        """(k, V) probabilities at `places` of one framed row of ids, read beside a picture or alone."""
        images = None if picture is None else self.encode_images([picture])
        logits = torch.cat(list(self._masked_logits([ids], [places], images)))
        return logits.softmax(-1).cpu().numpy()

    @torch.inference_mode()
    def masked_ids(
        self, rows: Sequence[np.ndarray], places: Sequence[np.ndarray], images: EncodedImages | None = None
    ) -> np.ndarray:
        """(k,) the likeliest id at every place of every framed row, end to end; row i beside picture i, or alone."""
        best = [logits.argmax(-1) for logits in self._masked_logits(rows, places, images)]
        return torch.cat(best).cpu().numpy()

    def _masked_logits(
        self, rows: Sequence[np.ndarray], places: Sequence[np.ndarray], images: EncodedImages | None
    ) -> Iterator[Tensor]:
        """(n, V) of so many places at a time, end to end; see `masked_ids`."""
        states = []
        for some in _chunks(range(len(rows)), self.size_of_batch):
            packed = self.pack([rows[i] for i in some])
            asked = np.concatenate([first + places[i] for first, i in zip(packed.offsets.tolist(), some)])
            everyone = torch.arange(len(some), device=self.device)
            with self._autocast():
                words = self.model.encode_texts(packed)
                if images is None:
                    towers = Towers(self._no_images(), words, packed)
                else:
                    beside = images.pick(torch.tensor(some, device=self.device))
                    towers = Towers(beside.hidden, words, packed, image_lengths=beside.lengths)
                self.model.count_votes(towers)
                request = Request(None if images is None else everyone, everyone)
                fused = self.model.fuse(towers, {"read": request})["read"]
            states.append(fused.words(torch.from_numpy(asked).to(self.device), packed))
        for some_states in torch.cat(states).split(WORD_ROWS):
            with self._autocast():
                logits = self.model.word_logits(some_states)
            yield logits.float()

    def classify(
        self,
        pictures: Iterable[Picture] | None = None,
        names: Sequence[str] | None = None,
        *,
        texts: Sequence[str | Sequence[str]] | None = None,
        prompts: Sequence[str] = PROMPTS,
    ) -> np.ndarray:
        """(N, k) probabilities of k classes.

        With names, from these alone (zero-shot): cosine of each picture with the mean of the prompted names. Without,
        by the head of a fine-tuned model: of each picture, each text (or pair of texts), or each picture beside its
        text; the classes are `labels`. Where a question may have several answers, each has a probability of its own.
        """
        if names is None:
            logits = self.task_logits(pictures, texts)
            several = self._head().settings.kind == "answers"
            return (logits.sigmoid() if several else logits.softmax(-1)).cpu().numpy()
        if pictures is None:
            raise UsageError("nothing to classify by its name", expected="pictures")
        weights = self.class_embeddings(names, prompts)
        cosine = self.encode_images(pictures).embedding @ weights.to(self.device).T
        if isinstance(self.model, UNIMO2):
            cosine = self.model.contrastive_temperature(cosine)
        return cosine.softmax(-1).detach().cpu().numpy()

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes or answers of a fine-tuned model, in the order of its probabilities."""
        return self._head().settings.labels

    def answer(
        self, questions: Sequence[str | Sequence[str]] | None = None, pictures: Iterable[Picture] | None = None
    ) -> list[str | float]:
        """The likeliest answer or class of each row by the head of a fine-tuned model; of a regression, its number."""
        head = self._head().settings
        logits = self.task_logits(pictures, questions)
        if head.kind == "number":
            return [head.centre + head.spread * x for x in logits[:, 0].tolist()]
        return [head.labels[i] for i in logits.argmax(-1).tolist()]

    @torch.inference_mode()
    def task_logits(
        self, pictures: Iterable[Picture] | None = None, texts: Sequence[str | Sequence[str]] | None = None
    ) -> Tensor:
        """(n, k) of the head of a fine-tuned model, each row read alone, so that no answer depends on another row.

        texts: a string each, or its segments. UsageError for a model without a head, or without what its head reads.
        """
        head, shown = self._head(), None if pictures is None else list(pictures)
        n = len(shown) if shown is not None else len(texts or ())
        if not n or (texts is not None and len(texts) != n):
            got = f"{0 if shown is None else len(shown)} pictures, {len(texts or ())} texts"
            raise UsageError("as many texts as pictures, and at least one", got=got)
        for side, given in (("image", shown), ("text", texts)):
            if head.settings.reads in (side, "both") and given is None:
                raise UsageError(f"this model reads a {side} in every row", where=head.settings.task, got="none")
        found = []
        for i in range(n):
            towers = self._no_towers() if shown is None else self._see(shown[i : i + 1])
            if texts is not None:
                read = texts[i]
                segments = [read] if isinstance(read, str) else list(read)
                ids = self.tokenizer.encode_batch(segments, max_bytes=8 * self.longest)
                row = joined([np.asarray(one, np.int64) for one in ids], min(head.settings.longest, self.longest))
                towers.texts = self.pack([row])
            with self._autocast():
                towers.words = self.model.encode_texts(towers.texts)
                self.model.count_votes(towers)
                one = torch.zeros(1, dtype=torch.int64, device=self.device)
                request = Request(None if shown is None else one, None if texts is None else one)
                found.append(self.model.task_logits(self.model.fuse(towers, {"task": request})["task"]).float())
        return torch.cat(found)

    def _head(self) -> TaskHead:
        if self.model.head is None:
            raise UsageError(
                "this model was not fine-tuned for a task with a head",
                where=self.facts.get("path"),
                do="fine-tune it (unimo finetune), or name the classes (classify(pictures, names))",
            )
        return self.model.head

    def _no_towers(self) -> Towers:
        return Towers(self._no_images(), self._no_words(), self._no_texts())

    def class_embeddings(self, names: Sequence[str], prompts: Sequence[str] = PROMPTS) -> Tensor:
        """(len(names), D): each class as the normalised mean of its prompts' embeddings."""
        texts = [prompt.format(name) for name in names for prompt in prompts]
        embedding = torch.from_numpy(self.embed_text(texts)).unflatten(0, (len(names), len(prompts)))
        return F.normalize(embedding.mean(1), dim=-1)

    def _see(self, pictures: Sequence[Picture]) -> Towers:
        """The image tower over one batch."""
        regions = [picture for picture in pictures if isinstance(picture, PictureRegions)]
        if isinstance(self.model, UNIMO):
            if len(regions) < len(pictures):
                raise UsageError("UNIMO does not see pixels", expected="regions of a detector for every picture")
            stacked = stack_regions(regions).to(self.device)
            rows = self.model.encode_images(stacked)
            return Towers(rows, self._no_words(), self._no_texts(), image_lengths=stacked.lengths)
        assert isinstance(self.model, UNIMO2) and self.side is not None
        if regions:
            raise UsageError("UNIMO-2 sees pixels", got="regions of a detector", expected="pictures")
        arrays = [squeeze(_open(picture), self.side) for picture in pictures]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).to(self.device)
        return Towers(self.model.encode_images(pixels), self._no_words(), self._no_texts())

    # ---- out -------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes the model as a folder that `unimo.load` and the hub understand, with the facts of its run."""
        settings = from_dict(ModelSettings, self.facts["settings"]["model"])
        run = {key: self.facts[key] for key in ("step", "elapsed", "data") if key in self.facts}
        facts = {**self.facts.get("facts", {}), **run, "run": self.facts["settings"]}
        return pretrained.save_pretrained(self.model, folder, settings, facts=facts)

    def push_to_hub(self, name: str, *, private: bool = True, token: str | None = None) -> str:
        """Saves the model for a moment and uploads it as `name` (owner/model); returns where it is."""
        with tempfile.TemporaryDirectory() as folder:
            saved = self.save_pretrained(Path(folder) / name.rpartition("/")[2])
            return pretrained.push_to_hub(saved, name, private=private, token=token)

    # ---- inputs ---------------------------------------------------------------------------------------------------

    def frame(self, text: str | np.ndarray) -> np.ndarray:
        """[CLS] ids [SEP] of a string or of bare ids, cut to what the position table holds."""
        if isinstance(text, str):
            text = np.asarray(self.tokenizer.encode(text, max_bytes=8 * self.longest), np.int64)
        kept = np.asarray(text, np.int64)[: self.longest - 2]
        return np.concatenate([[self.tokenizer.cls], kept, [self.tokenizer.sep]])

    def pack(self, rows: Sequence[np.ndarray], role: int = TEXT) -> Texts:
        """Framed rows of ids as one packed row; padded to the longest where released padding votes."""
        offsets = np.cumsum([0] + [len(row) for row in rows])
        positions = np.concatenate([2 + np.arange(len(row)) for row in rows])
        ids = torch.from_numpy(np.concatenate(rows)).to(self.device)
        texts = Texts(
            ids,
            torch.from_numpy(positions).to(self.device),
            torch.full_like(ids, role),
            torch.from_numpy(offsets).to(self.device),
        )
        if isinstance(self.model, UNIMO2) and self.model.released.padding_votes:
            return pad_texts(texts, self.tokenizer.pad)[0]
        return texts

    def _autocast(self):
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _no_images(self) -> Tensor:
        return self.model.no_images()

    def _no_words(self) -> Tensor:
        return torch.zeros(0, self.model.width, device=self.device)

    def _no_texts(self) -> Texts:
        nothing = torch.zeros(0, dtype=torch.int64, device=self.device)
        return Texts(nothing, nothing, nothing, torch.zeros(1, dtype=torch.int64, device=self.device))


def load(
    source: str | Path, *, device: str | None = None, precision: str = "auto", revision: str | None = None
) -> Answerer:
    """The model of a run, a checkpoint, a folder of `save_pretrained` or a name on the hub, ready to answer."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, saved = load_model(source, device=device, revision=revision)
    return Answerer(model, precision=precision, facts={"path": str(saved.path), "step": saved.step, **saved.state})


def _cosine_weight(settings: Any) -> float | None:
    """The weight of the cosine in the score by which UNIMO-2 was fine-tuned for retrieval; None for other training."""
    rank = settings.get("rank") if isinstance(settings, dict) and settings.get("kind") == "retrieval" else None
    weight = rank.get("cosine") if isinstance(rank, dict) and rank.get("loss") == "circle" else None
    return weight if isinstance(weight, float) else None


def _open(picture: Picture) -> Image.Image:
    assert not isinstance(picture, PictureRegions)
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    return load_rgb(Path(picture) if isinstance(picture, str) else picture)


def _chunks(items: Iterable, size: int) -> Iterator[list]:
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _end_to_end(packs: Sequence[Texts]) -> Texts:
    """Packed rows one after the other."""
    ids, positions, roles = (torch.cat([getattr(one, name) for one in packs]) for name in ("ids", "positions", "roles"))
    lengths = torch.cat([one.lengths for one in packs])
    return Texts(ids, positions, roles, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))


def _joined(votes: list[Tensor | None]) -> Tensor | None:
    return None if votes[0] is None else torch.cat([v for v in votes if v is not None])
