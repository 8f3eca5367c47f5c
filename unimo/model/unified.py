"""What both members are: towers, then one packed row in which images and texts meet, one Transformer, and heads.

    N images · R their rows · M texts · T packed tokens · n fused sequences · G grounded tokens of one sequence
    D width · V vocabulary

A member is its towers (`encode_images`, `encode_texts`) and, between images and words, its grounded tokens or none.
A forward pass has two halves. The towers run once over every image and every text of the batch. Then requests say
which image and which text meet; each becomes one fused sequence [ image | grounded | words ] with either side
possibly absent. A matching negative is only one more request: it costs one fused sequence, no tower.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimo.batch import GROUND, IMAGE, TEXT, Batch, Texts
from unimo.errors import UsageError
from unimo.model.attention import NO, Plan, Table
from unimo.model.transformer import Kept, States, Transformer

if TYPE_CHECKING:
    from unimo.model.embeddings import WordEmbedding
    from unimo.model.grounding import GroundedDictionary
    from unimo.model.heads import MatchingHead, Pooler, TiedHead
    from unimo.model.kv_cache import KVCache
    from unimo.model.task_heads import TaskHead


@dataclass(frozen=True)
class Request:
    """n sequences to fuse: image image[i] beside text text[i]. Either side may be None (absent), never both. Numbers
    on the host are looked at without waiting for a GPU.

    mask_ground: (n, K) bool, grounded tokens to zero out (masked grounding, §2.4), or None. share: sequences side by
    side with the same image hold it once, in front of all their texts; only where an image does not look at its
    texts (UNIMO's prefix fusion), or they would see each other through it.
    """

    image: Tensor | None
    text: Tensor | None
    mask_ground: Tensor | None = None
    share: bool = False

    def __len__(self) -> int:
        side = self.image if self.image is not None else self.text
        assert side is not None, "a request needs an image or a text"
        return len(side)


@dataclass
class Towers:
    """What both towers made of a batch. images: (N, R, D), [CLS] or [IMG] first; words: (T, D).

    image_lengths: (N,) rows of each image that are there, or None: all R. Votes add per modality, (N|M, C).
    """

    images: Tensor
    words: Tensor
    texts: Texts
    image_votes: Tensor | None = None
    text_votes: Tensor | None = None
    image_lengths: Tensor | None = None

    def image_cls(self, numbers: Tensor) -> Tensor:
        return self.images[numbers.to(self.images.device, non_blocking=True), 0]

    def text_cls(self, numbers: Tensor) -> Tensor:
        first = self.texts.host.offsets[numbers.cpu()]
        return self.words.index_select(0, first.to(self.words.device, non_blocking=True))


@dataclass
class Fused:
    """One request's answer, inside the packed row all requests of a step share.

    states: (T', D) of the whole row. On the host: starts: (n,) first token of each sequence; image_length,
    ground_length: (n,), both 0 where an earlier sequence holds the image; image_starts: (n,) first token of each one's
    image. codes: (n, K) chosen entries (topk), or None.
    """

    states: States
    request: Request
    starts: Tensor
    image_starts: Tensor
    image_length: Tensor
    ground_length: Tensor
    codes: Tensor | None
    word_table: Callable[[], Tensor]  # made once for all requests: its gradient is as large as the vocabulary

    @property
    def hidden(self) -> Tensor:
        """(T', D) the whole row."""
        return self.states.at(None)

    def image_cls(self) -> Tensor:
        return self.states.at(self.image_starts)

    def image_rows(self, sequences: Tensor, rows: Tensor) -> Tensor:
        """States of `rows` (k,) of the images of `sequences` (k,) of this request, (k, D)."""
        return self.states.at(self.image_starts[sequences.cpu()] + rows.cpu())

    def text_cls(self) -> Tensor:
        return self.states.at(self.starts + self.image_length + self.ground_length)

    def ground(self) -> Tensor:
        """(n, K, D), topk only."""
        assert self.codes is not None
        first = self.starts + self.image_length
        rows = first[:, None] + torch.arange(self.codes.shape[1])
        return self.states.at(rows.flatten()).unflatten(0, rows.shape)

    def words(self, rows: Tensor, texts: Texts) -> Tensor:
        """States of packed text positions `rows` (k,) of the batch; each must belong to a text of this request."""
        assert self.request.text is not None
        rows, offsets = rows.cpu(), texts.host.offsets
        text = torch.searchsorted(offsets, rows, right=True) - 1
        place = torch.full((len(texts),), -1)
        place[self.request.text.cpu()] = torch.arange(len(self.request.text))
        sequence = place[text]
        first = self.starts + self.image_length + self.ground_length
        return self.states.at(first[sequence] + rows - offsets[text])


class Unified(nn.Module, ABC):
    """The half that UNIMO and UNIMO-2 share. table: who sees whom."""

    words: WordEmbedding
    text_pooler: Pooler
    image_pooler: Pooler
    language_model: TiedHead
    table: Table

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.attention_form: Any = "dense"  # see `unimo.model.attention.attend`
        self.vocabulary_subset: Tensor | None = None  # ids the language model may predict; None: all
        self.frozen_word_table: Tensor | None = None  # see `unimo.inference.frozen`
        self.dictionary: GroundedDictionary | None = None
        self.matching: MatchingHead | None = None
        self.head: TaskHead | None = None  # of a fine-tuned task

    # ---- first half: the towers, a member's own -------------------------------------------------------------------

    @abstractmethod
    def towers(self, batch: Batch) -> Towers:
        """Both towers over a whole batch, with each image's and each text's votes where there is a dictionary."""

    @abstractmethod
    def encode_texts(self, texts: Texts, kept: Kept | None = None) -> Tensor:
        """Packed texts -> (T, D). kept: takes the keys and values of every layer of the text tower."""

    @abstractmethod
    def embed(self, towers: Towers, side: str) -> Tensor:
        """(N, D) or (M, D): every image or every text alone as one vector. side: image or text."""

    def count_votes(self, towers: Towers) -> None:
        """Fills in both tallies of the towers; nothing to do without a dictionary."""

    def ground(
        self, towers: Towers, requests: dict[str, Request], image: Tensor, text: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The grounded tokens of every sequence end to end, their number per sequence, and the chosen entries.

        image, text, and the numbers returned: on the host.
        """
        none = torch.zeros(len(image), dtype=torch.int64)
        return towers.images.new_zeros(0, self.width), none, None

    @property
    @abstractmethod
    def fuser(self) -> Transformer:
        """The Transformer over the fused row."""

    @abstractmethod
    def step(self, words: Tensor, in_text: list[KVCache], in_fused: list[KVCache]) -> Tensor:
        """One more embedded word a row, (r, D) -> (r, D), after what text tower and fused row remember."""

    @property
    def fused_table(self) -> Table:
        """Who sees whom in the fused row."""
        return self.table

    @property
    def can_share(self) -> bool:
        """Whether texts beside one copy of an image say what they would beside copies of their own."""
        return self.table[IMAGE][TEXT] == NO and self.dictionary is None

    def no_images(self) -> Tensor:
        """(0, 1, D): the towers' images where there are none."""
        return self.words.word.weight.new_zeros(0, 1, self.width)

    # ---- second half: images and texts meet ---------------------------------------------------------------------

    def fuse(
        self, towers: Towers, requests: dict[str, Request], kept: Kept | None = None, *, whole: bool = False
    ) -> dict[str, Fused]:
        """Runs the Transformer once over all requested sequences. kept: as in `encode_texts`.

        whole: work out the last layer for every row, also for those that nobody reads.
        """
        image, text = _numbers(requests, "image"), _numbers(requests, "text")
        n, device = len(image), towers.words.device
        # All that decides lengths and who sees whom is worked out on the host.
        texts = towers.texts.host
        zero = torch.zeros((), dtype=torch.int64)
        per_image = towers.images.shape[1]
        if towers.image_lengths is None:
            image_length = torch.where(image >= 0, per_image, zero)
        else:
            image_length = torch.where(image >= 0, towers.image_lengths.cpu()[image.clamp_min(0)], zero)
        first_of = _first_with_image(requests, image)  # the sequence that holds each one's image
        assert self.can_share or not any(r.share for r in requests.values()), "sharing an image needs prefix fusion"
        image_length = torch.where(first_of == torch.arange(n), image_length, zero)
        text_length = torch.where(text >= 0, texts.lengths[text.clamp_min(0)] if len(texts) else zero, zero)
        ground, ground_length, codes = self.ground(towers, requests, image, text)

        lengths = image_length + ground_length + text_length
        starts = lengths.cumsum(0) - lengths
        sequence = torch.arange(n)
        owner = sequence.repeat_interleave(lengths)
        place = torch.arange(len(owner)) - starts[owner]
        in_image = place < image_length[owner]
        in_ground = ~in_image & (place < (image_length + ground_length)[owner])
        # Every token's row among [ all patches | all words | all grounded tokens ] laid end to end.
        ground_starts = ground_length.cumsum(0) - ground_length
        first_word = towers.images.shape[0] * per_image
        after_image = place - image_length[owner]
        word = after_image - ground_length[owner]
        word_row = first_word + (texts.offsets[text.clamp_min(0)][owner] if len(texts) else zero) + word
        ground_row = first_word + len(texts.ids) + ground_starts[owner] + after_image
        rows = torch.where(in_image, image[owner] * per_image + place, torch.where(in_ground, ground_row, word_row))
        dtype = towers.images.dtype if len(towers.images) else towers.words.dtype
        everything = torch.cat([towers.images.flatten(0, 1), towers.words.to(dtype), ground.to(dtype)])
        # A gather whose backward adds up repeated rows fast and in order.
        x = F.embedding(rows.to(device, non_blocking=True), everything)

        role = torch.where(in_image, IMAGE, torch.where(in_ground, GROUND, TEXT))
        is_word = ~(in_image | in_ground)
        role[is_word] = texts.roles[rows[is_word] - first_word]
        # Texts that share an image are branches of one sequence.
        branch = torch.where(is_word, (sequence - first_of + 1)[owner], zero) if (first_of != sequence).any() else None
        order = torch.where(is_word, word, zero)
        plan = Plan(first_of[owner], role, order, branch, table=self.fused_table, device=device)
        states = self.fuser.states(x, plan, self.attention_form, kept, whole=whole)

        answers, first, table = {}, 0, cache(self.word_table)
        for name, request in requests.items():
            mine = slice(first, first + len(request))
            answers[name] = Fused(
                states,
                request,
                starts[mine],
                starts[first_of[mine]],
                image_length[mine],
                ground_length[mine],
                None if codes is None else codes[mine],
                table,
            )
            first += len(request)
        return answers

    # ---- read-outs ------------------------------------------------------------------------------------------------

    def word_logits(self, rows: Tensor) -> Tensor:
        """(n, D) supervised states -> (n, V); words outside the known vocabulary score -inf."""
        logits = self.subset_logits(rows, self.word_table())
        if self.vocabulary_subset is None:
            return logits
        return logits.new_full((len(rows), len(self.output_table)), float("-inf")).index_copy(
            1, self.vocabulary_subset, logits
        )

    def subset_logits(self, rows: Tensor, table: Tensor) -> Tensor:
        """(n, D) supervised states -> (n, known words), in the order of `known_words`. table: `word_table()`.

        Where the training texts hold a few hundred of 50,265 words, the rest of the softmax is work for nothing.
        """
        return self.language_model(rows, table, self.vocabulary_subset)

    def word_log_probabilities(self, rows: Tensor, ids: Tensor) -> Tensor:
        """(n, D) states and one word for each -> (n,) float32; -inf for words outside the known vocabulary."""
        logits = self.subset_logits(rows, self.word_table()).float()
        columns = self.word_columns(ids).clamp_max(logits.shape[1] - 1)
        found = logits.log_softmax(-1).gather(-1, columns[:, None])[:, 0]
        if self.vocabulary_subset is None:
            return found
        return found.masked_fill(self.vocabulary_subset[columns] != ids, float("-inf"))

    @property
    def output_table(self) -> Tensor:
        """(V, D) what words are predicted with: the word embeddings, or the head's own table where it is not tied."""
        own = self.language_model.table
        return self.words.word.weight if own is None else own.weight

    def word_table(self) -> Tensor:
        """The rows of the output table of the known words, (known words, D); all V without a known vocabulary."""
        if self.frozen_word_table is not None:
            return self.frozen_word_table
        return self.output_table if self.vocabulary_subset is None else self.output_table[self.vocabulary_subset]

    def word_columns(self, ids: Tensor) -> Tensor:
        """(n,) word ids -> (n,) their columns among the known words."""
        return ids if self.vocabulary_subset is None else torch.searchsorted(self.vocabulary_subset, ids)

    def know_words(self, ids: Tensor) -> None:
        """From now on only these words are ever predicted; ids: (k,) whole numbers, ascending, each once."""
        last = len(self.words.word.weight) - 1
        if not len(ids) or ids.dtype != torch.int64 or ids[0] < 0 or ids[-1] > last or (ids.diff() <= 0).any():
            raise UsageError(
                "not a vocabulary of known words",
                got=f"{len(ids)} of {ids.dtype}, {ids.tolist()[:3]} ...",
                expected=f"whole numbers from 0 to {last}, ascending, each once",
            )
        self.vocabulary_subset = ids.to(self.words.word.weight.device)

    def task_logits(self, fused: Fused) -> Tensor:
        """(n, k) of the head of the fine-tuned task."""
        assert self.head is not None, "the model was not fine-tuned for a task with a head"
        reads = self.head.settings.reads
        image = None if reads == "text" else self.image_pooler(fused.image_cls())
        text = None if reads == "image" else self.text_pooler(fused.text_cls())
        return self.head(image, text)

    def match_logits(self, fused: Fused) -> Tensor:
        """(n, 2); class 1 = the text belongs to the image."""
        assert self.matching is not None, "the model was built without a matching head"
        return self.matching(self.image_pooler(fused.image_cls()), self.text_pooler(fused.text_cls()))


def _first_with_image(requests: dict[str, Request], image: Tensor) -> Tensor:
    """(n,) the sequence that holds the image of each: itself, or the first of neighbours that share one."""
    n = len(image)
    sequence = torch.arange(n)
    shares = torch.cat([torch.full((len(r),), r.share) for r in requests.values()])
    if not shares.any():
        return sequence
    begins = torch.ones(n, dtype=torch.bool)
    begins[1:] = ~shares[1:] | ~shares[:-1] | (image[1:] != image[:-1]) | (image[1:] < 0)
    first = 0
    for request in requests.values():  # requests never share with each other
        begins[first] = True
        first += len(request)
    return torch.where(begins, sequence, 0).cummax(0).values


def _numbers(requests: dict[str, Request], side: str) -> Tensor:
    """Image or text numbers of all requests end to end, on the host; -1 where that side is absent."""
    parts = []
    for request in requests.values():
        mine = getattr(request, side)
        if mine is None:
            other = request.text if side == "image" else request.image
            assert other is not None, "a request needs an image or a text"
            mine = torch.full_like(other, -1)
        parts.append(mine.cpu())
    return torch.cat(parts)
