"""UNIMO: one Transformer over the detected regions of an image and the words of a text (spec unimo §1).

    N images · R regions, the whole image first · F features · T packed tokens · D width · K detector classes

The towers are embeddings only; the fused row is [ regions | words ], and one network is encoder and generator by its
mask. *joint* fusion is the paper's: regions and words see each other. In *prefix* fusion an image does not look at its
texts, so that many texts can share it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimo.batch import Batch, Regions, Texts
from unimo.model.attention import JOINT, PREFIX
from unimo.model.embeddings import RegionEmbedding, WordEmbedding, waves
from unimo.model.heads import MatchingHead, Pooler, TiedHead
from unimo.model.transformer import Kept, Transformer, init_weights
from unimo.model.unified import Request, Towers, Unified

if TYPE_CHECKING:
    from unimo.model.kv_cache import KVCache

FUSIONS = {"joint": JOINT, "prefix": PREFIX}
SPEAKERS, TURNS = 3, 16  # rows of CoQA's tables (spec unimo §6.4)


class UNIMO(Unified):
    """The whole model; defaults are the paper's base (spec unimo §1.2).

    region_size, region_classes: the detector's features F and classes K. region_heads: build the two heads of masked
    region modelling. matching: outputs of the matching head, 0 for none. dialogue: build CoQA's two tables.
    initial_waves, initial_boxes: other beginnings than the published one (ours; see `ModelSettings`).
    """

    def __init__(
        self,
        *,
        width: int = 768,
        heads: int = 12,
        depth: int = 12,
        ffn: int | None = None,
        region_size: int = 2048,
        region_classes: int = 1601,
        vocabulary: int = 50265,
        positions: int = 514,
        fusion: str = "joint",
        region_heads: bool = False,
        matching: int = 0,
        matching_fusion: str = "product",
        dialogue: bool = False,
        hidden_act: str = "gelu",
        tie_word_embeddings: bool = True,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        initial_std: float = 0.02,
        initial_waves: float = 0.0,
        initial_boxes: float = 1.0,
    ):
        super().__init__(width)
        if fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
        self.regions = RegionEmbedding(width, region_size, dropout)
        self.words = WordEmbedding(vocabulary, width, positions, dropout, (SPEAKERS, TURNS) if dialogue else None)
        self.encoder = Transformer(
            width, depth, heads, ffn=ffn, dropout=dropout, attention_dropout=attention_dropout, hidden_act=hidden_act
        )
        self.text_pooler, self.image_pooler = Pooler(width), Pooler(width)
        self.language_model = TiedHead(width, vocabulary, hidden_act=hidden_act, tied=tie_word_embeddings)
        self.matching = MatchingHead(width, dropout, matching_fusion, matching) if matching else None
        self.region_features = nn.Linear(width, region_size) if region_heads else None
        self.region_classes = nn.Linear(width, region_classes) if region_heads else None
        init_weights(self, initial_std)
        with torch.no_grad():
            self.regions.box.weight *= initial_boxes
            if initial_waves:
                self.words.position.weight.copy_(initial_waves * waves(positions, width))
        self.table = FUSIONS[fusion]

    def encode_images(self, regions: Regions) -> Tensor:
        """(N, R, D); rows beyond an image's own are computed, and never read."""
        return self.regions(regions.features, regions.boxes)

    def encode_texts(self, texts: Texts, kept: Kept | None = None) -> Tensor:
        return self.words.of(texts)

    def towers(self, batch: Batch) -> Towers:
        words, regions = self.encode_texts(batch.texts), batch.regions
        if regions is None:
            return Towers(self.no_images(), words, batch.texts)
        return Towers(self.encode_images(regions), words, batch.texts, image_lengths=regions.host.lengths)

    def embed(self, towers: Towers, side: str) -> Tensor:
        """The pooled [IMG] or [CLS] of an individual pass, L2-normalised (spec unimo §3.3, §3.5 B)."""
        n = len(towers.images) if side == "image" else len(towers.texts)
        numbers = torch.arange(n)
        alone = Request(numbers, None) if side == "image" else Request(None, numbers)
        fused = self.fuse(towers, {"alone": alone})["alone"]
        pooled = self.image_pooler(fused.image_cls()) if side == "image" else self.text_pooler(fused.text_cls())
        return F.normalize(pooled.float(), dim=-1)

    @property
    def fuser(self) -> Transformer:
        return self.encoder

    def step(self, words: Tensor, in_text: list[KVCache], in_fused: list[KVCache]) -> Tensor:
        return self.encoder.step(words, in_fused)
