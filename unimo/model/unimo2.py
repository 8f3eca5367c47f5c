"""UNIMO-2: a ViT, a text encoder and a Grounded Transformer, joined by the grounded dictionary (spec unimo2 §2).

    N pictures · P patches · M texts · T packed tokens · n fused sequences · G grounded tokens of one sequence
    D width · C dictionary · K chosen

A forward pass has two halves. The towers run once over every picture and every text of the batch. Then requests say
which picture and which text meet; each becomes one fused sequence [ patches | grounded | words ] with either side
possibly absent. A matching negative is only one more request: it costs one fused sequence, no tower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimo.batch import GROUND, IMAGE, TEXT, WRITTEN, Batch, Texts
from unimo.model.attention import BASELINE, UNDERSTANDING_AND_GENERATION, Plan
from unimo.model.embeddings import PatchEmbedding, WordEmbedding
from unimo.model.grounding import GroundedDictionary
from unimo.model.heads import MatchingHead, Pooler, Temperature, TiedHead
from unimo.model.transformer import Kept, Transformer, initialise


@dataclass(frozen=True)
class Request:
    """n sequences to fuse: picture image[i] beside text text[i]. Either side may be None (absent), never both.

    mask_ground: (n, K) bool, grounded tokens to zero out (masked grounding, §2.4), or None.
    """

    image: Tensor | None
    text: Tensor | None
    mask_ground: Tensor | None = None

    def __len__(self) -> int:
        side = self.image if self.image is not None else self.text
        assert side is not None, "a request needs a picture or a text"
        return len(side)


@dataclass
class Towers:
    """What both towers made of a batch. images: (N, 1 + P, D); words: (T, D); votes add per modality, (N|M, C)."""

    images: Tensor
    words: Tensor
    texts: Texts
    image_votes: Tensor | None = None
    text_votes: Tensor | None = None

    def image_cls(self, numbers: Tensor) -> Tensor:
        return self.images[numbers, 0]

    def text_cls(self, numbers: Tensor) -> Tensor:
        return self.words.index_select(0, self.texts.offsets[numbers])


@dataclass
class Fused:
    """One request's answer, inside the packed row all requests of a step share.

    hidden: (T', D) the whole row. starts: (n,) first token of each sequence; image_length, ground_length: (n,).
    codes: (n, K) chosen entries (topk), or None.
    """

    hidden: Tensor
    request: Request
    starts: Tensor
    image_length: Tensor
    ground_length: Tensor
    codes: Tensor | None
    word_table: Tensor  # gathered once for all requests: its gradient is as large as the vocabulary

    def image_cls(self) -> Tensor:
        return self.hidden.index_select(0, self.starts)

    def text_cls(self) -> Tensor:
        return self.hidden.index_select(0, self.starts + self.image_length + self.ground_length)

    def ground(self) -> Tensor:
        """(n, K, D), topk only."""
        assert self.codes is not None
        first = self.starts + self.image_length
        rows = first[:, None] + torch.arange(self.codes.shape[1], device=first.device)
        return self.hidden.index_select(0, rows.flatten()).unflatten(0, rows.shape)

    def words(self, rows: Tensor, texts: Texts) -> Tensor:
        """States of packed text positions `rows` (k,) of the batch; each must belong to a text of this request."""
        assert self.request.text is not None
        text = torch.searchsorted(texts.offsets, rows, right=True) - 1
        place = torch.full((len(texts),), -1, device=rows.device)
        place[self.request.text] = torch.arange(len(self.request.text), device=rows.device)
        sequence = place[text]
        first = self.starts + self.image_length + self.ground_length
        return self.hidden.index_select(0, first[sequence] + rows - texts.offsets[text])


class UNIMO2(nn.Module):
    """The whole model. All sizes are plain arguments; `unimo.model.sizes` names the usual ones.

    dictionary: number of entries C; 0 builds "Our Baseline" without a dictionary (§2.7). matching, image_contrastive,
    masked_grounding, contrastive_projection: heads that not every published weight file has.
    """

    def __init__(
        self,
        *,
        width: int = 768,
        heads: int = 12,
        image_depth: int = 12,
        text_depth: int = 12,
        grounded_depth: int = 12,
        ffn: int | None = None,
        image_size: int = 224,
        patch: int = 16,
        patch_padding: int = 0,
        vocabulary: int = 50265,
        positions: int = 514,
        dictionary: int = 2048,
        chosen: int = 100,
        grounding_method: str = "topk",
        grounding_projection: bool = False,
        grounding_positions: bool = False,
        contrastive_projection: bool = False,
        masked_grounding: bool = False,
        image_contrastive: bool = True,
        matching_fusion: str = "product",
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        image_dropout: float = 0.0,
        initial_std: float = 0.02,
    ):
        super().__init__()
        self.width, self.grounding_positions = width, grounding_positions
        self.attention_form = "dense"
        self.known_words: Tensor | None = None  # ids the language model may predict; None: all
        text_like: dict[str, Any] = {"ffn": ffn, "dropout": dropout, "attention_dropout": attention_dropout}
        self.patches = PatchEmbedding(width, image_size, patch, patch_padding)
        self.image_encoder = Transformer(
            width, image_depth, heads, ffn=ffn, norm_first=True, eps=1e-12, dropout=image_dropout
        )
        self.words = WordEmbedding(vocabulary, width, positions, dropout)
        self.text_encoder = Transformer(width, text_depth, heads, **text_like)
        self.grounded_encoder = Transformer(width, grounded_depth, heads, **text_like)
        self.text_pooler, self.image_pooler = Pooler(width), Pooler(width)
        self.matching = MatchingHead(width, dropout, matching_fusion)
        self.language_model = TiedHead(width, vocabulary)
        self.contrastive_temperature = Temperature()
        self.image_temperature = Temperature() if image_contrastive else None
        self.contrastive_projection = nn.ModuleDict(
            {side: nn.Linear(width, width) for side in ("image", "text")} if contrastive_projection else {}
        )
        initialise(self, initial_std)
        self.dictionary = self.ground_norm = self.masked_grounding = None
        if dictionary:
            self.dictionary = GroundedDictionary(
                width, dictionary, chosen, method=grounding_method, projection=grounding_projection
            )
            initialise(self.dictionary.project)
            self.ground_norm = nn.LayerNorm(width)
            self.ground_dropout = nn.Dropout(dropout)
            if masked_grounding:
                self.masked_grounding = TiedHead(width, dictionary)
                initialise(self.masked_grounding)
        self.table = UNDERSTANDING_AND_GENERATION if dictionary else BASELINE

    # ---- first half: the towers ---------------------------------------------------------------------------------

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 -> (N, 1 + P, D), [CLS] first."""
        x = self.patches(pixels)
        n, length, _ = x.shape
        plan = Plan.rectangle(n, length, x.device)
        return self.image_encoder(x.flatten(0, 1), plan).unflatten(0, (n, length))

    def encode_texts(self, texts: Texts, kept: Kept | None = None) -> Tensor:
        """Packed texts -> (T, D). kept: takes the keys and values of every layer."""
        owner = texts.owner
        order = torch.arange(len(owner), device=owner.device) - texts.offsets[owner]
        plan = Plan(owner, texts.roles, order, table=self.table)
        return self.text_encoder(self.words(texts.ids, texts.positions), plan, self.attention_form, kept)

    def towers(self, batch: Batch) -> Towers:
        """Both towers over a whole batch, with each picture's and each text's votes."""
        images = self.encode_images(batch.pixels)
        words = self.encode_texts(batch.texts)
        towers = Towers(images, words, batch.texts)
        self.count_votes(towers)
        return towers

    def count_votes(self, towers: Towers) -> None:
        """Fills in both tallies. [CLS] and written words have no vote: an answer must not choose its own ground."""
        if self.dictionary is None or self.dictionary.method != "topk":
            return
        images, texts = towers.images[:, 1:], towers.texts
        n, patches, _ = images.shape
        voters = self.dictionary.positions_of(images, "image").flatten(0, 1)
        owner = torch.arange(n, device=images.device).repeat_interleave(patches)
        towers.image_votes = self.dictionary.tally(voters, owner, n)
        towers.text_votes = self.dictionary.tally(
            self.dictionary.positions_of(towers.words, "text"), texts.owner, len(texts), self.text_voters(texts)
        )

    @staticmethod
    def text_voters(texts: Texts) -> Tensor:
        """(T,) bool: every token but the leading [CLS] and the written ones."""
        votes = texts.roles != WRITTEN
        votes[texts.offsets[:-1]] = False
        return votes

    # ---- second half: pictures and texts meet ---------------------------------------------------------------------

    def fuse(self, towers: Towers, requests: dict[str, Request], kept: Kept | None = None) -> dict[str, Fused]:
        """Runs the Grounded Transformer once over all requested sequences. kept: as in `encode_texts`."""
        image, text = _numbers(requests, "image"), _numbers(requests, "text")
        n, device = len(image), image.device
        texts = towers.texts
        zero = torch.zeros((), dtype=torch.int64, device=device)
        per_image = towers.images.shape[1]
        image_length = torch.where(image >= 0, per_image, zero)
        text_length = torch.where(text >= 0, texts.lengths[text.clamp_min(0)] if len(texts) else zero, zero)
        ground, ground_length, codes = self.ground(towers, requests, image, text)

        lengths = image_length + ground_length + text_length
        starts = lengths.cumsum(0) - lengths
        owner = torch.arange(n, device=device).repeat_interleave(lengths)
        place = torch.arange(len(owner), device=device) - starts[owner]
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
        x = F.embedding(rows, everything)  # a gather whose backward adds up repeated rows fast and in order

        role = torch.where(in_image, IMAGE, torch.where(in_ground, GROUND, TEXT))
        is_word = ~(in_image | in_ground)
        role[is_word] = texts.roles[rows[is_word] - first_word]
        plan = Plan(owner, role, torch.where(is_word, word, zero), table=self.table)
        hidden = self.grounded_encoder(x, plan, self.attention_form, kept)

        answers, first, table = {}, 0, self.word_table()
        for name, request in requests.items():
            mine = slice(first, first + len(request))
            answers[name] = Fused(
                hidden,
                request,
                starts[mine],
                image_length[mine],
                ground_length[mine],
                None if codes is None else codes[mine],
                table,
            )
            first += len(request)
        return answers

    def ground(
        self, towers: Towers, requests: dict[str, Request], image: Tensor, text: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The grounded tokens of every sequence end to end, their number per sequence, and the chosen entries.

        The entries enter as they are, through their own LayerNorm: no straight-through estimator (§2.4).
        """
        n = len(image)
        if self.dictionary is None:
            none = torch.zeros(n, dtype=torch.int64, device=image.device)
            return towers.images.new_zeros(0, self.width), none, None
        if self.dictionary.method == "normal":
            codes, counts = self._one_to_one(towers, image, text)
            chosen = None
        else:
            assert towers.image_votes is not None and towers.text_votes is not None
            tally = towers.image_votes.new_zeros(n, len(self.dictionary.entries))
            tally[image >= 0] += towers.image_votes[image[image >= 0]]
            tally[text >= 0] += towers.text_votes[text[text >= 0]]
            chosen = self.dictionary.choose(tally)  # (n, K)
            codes, counts = chosen.flatten(), torch.full_like(image, chosen.shape[1])
        x = F.embedding(codes, self.dictionary.entries)
        if self.grounding_positions:
            starts = counts.cumsum(0) - counts
            place = torch.arange(len(x), device=x.device) - starts.repeat_interleave(counts)
            x = x + self.words.position(2 + place)
        masks = [
            torch.zeros(len(r), self.dictionary.chosen, dtype=torch.bool, device=x.device)
            if r.mask_ground is None
            else r.mask_ground
            for r in requests.values()
        ]
        if any(r.mask_ground is not None for r in requests.values()):
            x = x * ~torch.cat(masks).flatten()[:, None]
        assert self.ground_norm is not None
        return self.ground_dropout(self.ground_norm(x)), counts, chosen

    def _one_to_one(self, towers: Towers, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Method "normal": the nearest entry of every voting position, patches first. -> codes, counts (n,)."""
        assert self.dictionary is not None
        texts = towers.texts
        voting = self.text_voters(texts)
        patch_codes = self.dictionary.nearest(
            self.dictionary.positions_of(towers.images[:, 1:], "image").flatten(0, 1)
        ).unflatten(0, towers.images[:, 1:].shape[:2])
        word_codes = self.dictionary.nearest(self.dictionary.positions_of(towers.words, "text"))
        codes = []
        for i, t in zip(image.tolist(), text.tolist()):
            part = [patch_codes[i]] if i >= 0 else []
            if t >= 0:
                mine = slice(int(texts.offsets[t]), int(texts.offsets[t + 1]))
                part.append(word_codes[mine][voting[mine]])
            codes.append(torch.cat(part))
        return torch.cat(codes), torch.tensor([len(c) for c in codes], device=image.device)

    # ---- read-outs ------------------------------------------------------------------------------------------------

    def contrastive_feature(self, cls: Tensor, side: str) -> Tensor:
        """Unimodal [CLS] states, through the optional ReLU projection; not normalised. side: image or text."""
        if self.contrastive_projection:
            cls = self.contrastive_projection[side](cls).relu()
        return cls.float()

    def word_logits(self, rows: Tensor) -> Tensor:
        """(n, D) supervised states -> (n, V); words outside the known vocabulary score -inf."""
        logits = self.known_word_logits(rows, self.word_table())
        if self.known_words is None:
            return logits
        return logits.new_full((len(rows), len(self.words.word.weight)), float("-inf")).index_copy(
            1, self.known_words, logits
        )

    def known_word_logits(self, rows: Tensor, table: Tensor) -> Tensor:
        """(n, D) supervised states -> (n, known words), in the order of `known_words`. table: `word_table()`.

        Where the training texts hold a few hundred of 50,265 words, the rest of the softmax is work for nothing.
        """
        return self.language_model(rows, table, self.known_words)

    def word_table(self) -> Tensor:
        """The embeddings of the known words, (known words, D); all V of them without a known vocabulary."""
        return self.words.word.weight if self.known_words is None else self.words.word.weight[self.known_words]

    def word_columns(self, ids: Tensor) -> Tensor:
        """(n,) word ids -> (n,) their columns among the known words."""
        return ids if self.known_words is None else torch.searchsorted(self.known_words, ids)

    def know_words(self, ids: Tensor) -> None:
        """From now on only these words are ever predicted; ids: (k,) sorted, unique."""
        self.known_words = ids.to(self.words.word.weight.device)

    def match_logits(self, fused: Fused) -> Tensor:
        """(n, 2); class 1 = the text belongs to the picture."""
        return self.matching(self.image_pooler(fused.image_cls()), self.text_pooler(fused.text_cls()))


def _numbers(requests: dict[str, Request], side: str) -> Tensor:
    """Picture or text numbers of all requests end to end; -1 where that side is absent."""
    parts = []
    for request in requests.values():
        mine = getattr(request, side)
        if mine is None:
            other = request.text if side == "image" else request.image
            assert other is not None, "a request needs a picture or a text"
            mine = torch.full_like(other, -1)
        parts.append(mine)
    return torch.cat(parts)
