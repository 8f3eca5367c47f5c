"""UNIMO-2: a ViT, a text encoder and a Grounded Transformer, joined by the grounded dictionary (spec unimo2 §2).

    N images · P patches · M texts · T packed tokens · n fused sequences · G grounded tokens of one sequence
    D width · C dictionary · K chosen

The fused row is [ patches | grounded | words ]; image and text meet only through the grounded tokens between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimo.batch import KNOWN, PADDING, WRITTEN, Batch, Texts
from unimo.config import setting
from unimo.errors import UsageError
from unimo.model.attention import BASELINE, UNDERSTANDING_AND_GENERATION, Plan, Table, with_padding_read
from unimo.model.embeddings import PatchEmbedding, WordEmbedding, rows_and_columns
from unimo.model.grounding import GroundedDictionary
from unimo.model.heads import MatchingHead, Pooler, Temperature, TiedHead
from unimo.model.transformer import Kept, Transformer, init_weights
from unimo.model.unified import Request, Towers, Unified

if TYPE_CHECKING:
    from unimo.model.kv_cache import KVCache


@dataclass(frozen=True)
class Released:
    """What the published graph does and ours does not, one switch each; all of them are on in released results."""

    padding_votes: bool = setting(False, "padding of a batch of texts votes for dictionary entries (spec §2.4)")
    only_patches_vote: bool = setting(False, "beside an image, known words (object tags) have no vote (§2.4)")
    padding_read: bool = setting(False, "a caption being written reads the padding of object tags (§6.2)")
    raw_text_score: bool = setting(False, "the text side of the contrastive score is not normalised (§4.3)")


class UNIMO2(Unified):
    """The whole model. All sizes are plain arguments; `unimo.model.build` names the usual ones.

    image_size: side of the images that the position table is made for; pixels: side of those that are shown, by
    default the same. dictionary: number of entries C; 0 builds "Our Baseline" without a dictionary (§2.7).
    image_contrastive, masked_grounding, contrastive_projection: parts that not every published weight file has.
    initial_patch_positions: another beginning than the published one (ours; see `ModelSettings`). released: see
    `Released`.
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
        pixels: int | None = None,
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
        shared_projection: bool = False,
        masked_grounding: bool = False,
        image_contrastive: bool = True,
        hidden_act: str = "gelu",
        tie_word_embeddings: bool = True,
        matching_fusion: str = "product",
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        image_dropout: float = 0.0,
        initial_std: float = 0.02,
        initial_patch_positions: float = 0.0,
        released: Released | None = None,
    ):
        super().__init__(width)
        self.tower_chunk: int | None = None  # images, or texts, the towers encode at once in training; None: all
        self.grounding_positions, self.released = grounding_positions, released or Released()
        self.pixels = pixels or image_size
        every: dict[str, Any] = {"ffn": ffn, "hidden_act": hidden_act}
        text_like = {**every, "dropout": dropout, "attention_dropout": attention_dropout}
        self.patches = PatchEmbedding(width, image_size, patch, patch_padding)
        self.image_encoder = Transformer(
            width, image_depth, heads, norm_first=True, eps=1e-12, dropout=image_dropout, **every
        )
        self.words = WordEmbedding(vocabulary, width, positions, dropout)
        self.text_encoder = Transformer(width, text_depth, heads, **text_like)
        self.grounded_encoder = Transformer(width, grounded_depth, heads, **text_like)
        self.text_pooler, self.image_pooler = Pooler(width), Pooler(width)
        self.matching = MatchingHead(width, dropout, matching_fusion)
        self.language_model = TiedHead(width, vocabulary, hidden_act=hidden_act, tied=tie_word_embeddings)
        self.contrastive_temperature = Temperature()
        self.image_temperature = Temperature() if image_contrastive else None
        own = contrastive_projection and not shared_projection
        self.contrastive_projection = nn.ModuleDict(
            {side: nn.Linear(width, width) for side in ("image", "text")} if own else {}
        )
        self.shared_projection = shared_projection
        init_weights(self, initial_std)
        if initial_patch_positions:
            with torch.no_grad():
                table = initial_patch_positions * rows_and_columns(self.patches.grid, width)
                self.patches.positions[0, 1:] = table
        self.ground_norm: nn.LayerNorm | None = None
        self.masked_grounding: TiedHead | None = None
        if dictionary:
            self.dictionary = GroundedDictionary(
                width, dictionary, chosen, method=grounding_method, projection=grounding_projection
            )
            init_weights(self.dictionary.project, initial_std)
            self.ground_norm = nn.LayerNorm(width)
            self.ground_dropout = nn.Dropout(dropout)
            if masked_grounding:
                self.masked_grounding = TiedHead(width, dictionary, hidden_act=hidden_act)
                init_weights(self.masked_grounding, initial_std)
        self.table = UNDERSTANDING_AND_GENERATION if dictionary else BASELINE

    # ---- the towers -----------------------------------------------------------------------------------------------

    def encode_images(self, pixels: Tensor, *, only_cls: bool = False) -> Tensor:
        """(N, 3, S, S) uint8 -> (N, 1 + P, D), [CLS] first; only_cls: (N, D), all that an embedding needs."""
        x = self.patches(pixels)
        n, length, _ = x.shape
        plan = Plan.rectangle(n, length, x.device)
        form = self.attention_form if callable(self.attention_form) else "dense"  # a rectangle needs no other
        states = self.image_encoder.states(x.flatten(0, 1), plan, form, whole=not only_cls)
        return states.at(length * torch.arange(n)) if only_cls else states.at(None).unflatten(0, (n, length))

    def encode_texts(self, texts: Texts, kept: Kept | None = None, *, only_cls: bool = False) -> Tensor:
        host = texts.host
        owner = host.owner
        order = torch.arange(len(owner)) - host.offsets[owner]
        plan = Plan(owner, host.roles, order, table=self.table, device=texts.device)
        states = self.text_encoder.states(self.words.of(texts), plan, self.attention_form, kept, whole=not only_cls)
        return states.at(host.offsets[:-1] if only_cls else None)

    def towers(self, batch: Batch) -> Towers:
        if self.tower_chunk is not None and self.training:
            from unimo.model.gradient_cache import encode_in_chunks

            images, words = encode_in_chunks(self, batch, self.tower_chunk)
        else:
            images, words = self.encode_images(batch.pixels), self.encode_texts(batch.texts)
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
        owner = torch.arange(n, device=images.device).repeat_interleave(patches, output_size=n * patches)
        towers.image_votes = self.dictionary.tally(voters, owner, n)
        towers.text_votes = self.dictionary.tally(
            self.dictionary.positions_of(towers.words, "text"), texts.owner, len(texts), self.text_voters(texts)
        )

    def text_voters(self, texts: Texts) -> Tensor:
        """(T,) bool: every token but the leading [CLS] and the written ones."""
        host = texts.host
        votes = host.roles != WRITTEN
        if not self.released.padding_votes:
            votes &= host.roles != PADDING
        votes[host.offsets[:-1][host.lengths > 0]] = False
        return votes.to(texts.device, non_blocking=True)

    # ---- between them: the grounded tokens --------------------------------------------------------------------------

    def ground(
        self, towers: Towers, requests: dict[str, Request], image: Tensor, text: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The chosen entries enter as they are, through their own LayerNorm: no straight-through estimator (§2.4)."""
        if self.dictionary is None:
            return super().ground(towers, requests, image, text)
        if self.dictionary.method == "normal":
            codes, counts = self._one_to_one(towers, image, text)
            chosen = None
        else:
            chosen = self.choice(towers, image, text)
            codes, counts = chosen.flatten(), torch.full_like(image, chosen.shape[1])
        x = F.embedding(codes, self.dictionary.entries)
        if self.grounding_positions:
            starts = counts.cumsum(0) - counts
            place = (torch.arange(len(x)) - starts.repeat_interleave(counts)).to(x.device, non_blocking=True)
            if 2 + int(counts.max()) > self.words.position.num_embeddings:
                raise UsageError(
                    "more grounded tokens than text positions",
                    where="model.grounding_positions",
                    got=f"{int(counts.max())} grounded tokens",
                    expected=f"at most {self.words.position.num_embeddings - 2}",
                    do="switch the positions off, or choose fewer entries (model.chosen)",
                )
            x = x + self.words.position(2 + place)
        if any(r.mask_ground is not None for r in requests.values()):
            every = torch.ones(len(image), self.dictionary.chosen, dtype=torch.bool)
            kept = [
                rows if r.mask_ground is None else ~r.mask_ground
                for r, rows in zip(requests.values(), every.split([len(r) for r in requests.values()]))
            ]
            x = x * torch.cat(kept).flatten()[:, None].to(x.device, non_blocking=True)
        assert self.ground_norm is not None
        return self.ground_dropout(self.ground_norm(x)), counts, chosen

    def choice(self, towers: Towers, image: Tensor, text: Tensor) -> Tensor:
        """Method "topk": the entries that image image[i] and text text[i] choose together, -1 for none: (n, K)."""
        assert self.dictionary is not None and towers.image_votes is not None and towers.text_votes is not None
        image, text = image.cpu(), text.cpu()
        if self.released.only_patches_vote:
            text = torch.where((image < 0) | ~_has_known_words(towers.texts.host)[text], text, -1)
        sides = ((towers.image_votes, image), (towers.text_votes, text))
        # Behind the last row of either tally stands one of zeros: number -1.
        of_image, of_text = (F.pad(votes, (0, 0, 0, 1))[n.to(votes.device, non_blocking=True)] for votes, n in sides)
        return self.dictionary.choose(of_image + of_text)

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
                mine = slice(*texts.host.offsets[t : t + 2].tolist())
                part.append(word_codes[mine][voting[mine]])
            codes.append(torch.cat(part))
        return torch.cat(codes), torch.tensor([len(c) for c in codes])

    # ---- read-outs ------------------------------------------------------------------------------------------------

    def contrastive_feature(self, cls: Tensor, side: str) -> Tensor:
        """Unimodal [CLS] states, through the optional ReLU projection; not normalised. side: image or text."""
        if (project := self.projections()) is not None:
            cls = project[side](cls).relu()
        return cls.float()

    def projections(self) -> nn.ModuleDict | None:
        """Linear maps of the contrastive score: its own, those the dictionary's voters pass (§4.3), or none."""
        if self.shared_projection:
            assert self.dictionary is not None and self.dictionary.project, "there is no grounding_projection to share"
            return self.dictionary.project
        return self.contrastive_projection or None

    def embed(self, towers: Towers, side: str) -> Tensor:
        """The unimodal [CLS] as it enters the contrastive score: L2-normalised, unless released text is not (§4.3)."""
        n = len(towers.images) if side == "image" else len(towers.texts)
        numbers = torch.arange(n)
        return self.embed_cls(towers.image_cls(numbers) if side == "image" else towers.text_cls(numbers), side)

    def embed_cls(self, cls: Tensor, side: str) -> Tensor:
        feature = self.contrastive_feature(cls, side)
        raw = side == "text" and self.released.raw_text_score and self.projections() is None
        return feature if raw else F.normalize(feature, dim=-1)

    @property
    def fused_table(self) -> Table:
        return with_padding_read(self.table) if self.released.padding_read else self.table

    @property
    def fuser(self) -> Transformer:
        return self.grounded_encoder

    def step(self, words: Tensor, in_text: list[KVCache], in_fused: list[KVCache]) -> Tensor:
        return self.grounded_encoder.step(self.text_encoder.step(words, in_text), in_fused)


def _has_known_words(texts: Texts) -> Tensor:
    """(M + 1,) bool: which texts hold KNOWN words; the last stands for no text."""
    known = torch.zeros(len(texts) + 1, dtype=torch.bool)
    known[texts.owner[texts.roles == KNOWN]] = True
    return known
