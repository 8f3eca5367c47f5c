"""The grounded dictionary: one matrix shared by both modalities, and the vote that chooses from it.

    n sequences · S positions · T packed positions · D width · C dictionary · K chosen

Spec unimo2 §2.4 (choice) and §3 (loss). Votes are sums over positions, so they add over modalities: the tally of an
image and the tally of a text, computed once each, make the tally of any pair.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimo.model.attention import rounded
from unimo.model.heads import within

ENCODER_WEIGHT, DICTIONARY_WEIGHT = 0.25, 1.0  # beta and alpha of §3.3


class GroundedDictionary(nn.Module):
    """C learned entries; per sequence the K with the highest total vote, or per position the nearest.

    method: "topk" (released) or "normal" (classic vector quantisation, one nearest entry per position).
    projection: separate ReLU layers and L2 normalisation of both sides' positions before the similarity.
    """

    def __init__(self, width: int, entries: int, chosen: int, *, method: str = "topk", projection: bool = False):
        super().__init__()
        if method not in ("topk", "normal"):
            raise ValueError(f"grounding method must be topk or normal, got {method!r}")
        self.chosen, self.method = min(chosen, entries), method
        self.entries = nn.Parameter(torch.empty(entries, width).uniform_(-1 / entries, 1 / entries))
        self.scale = nn.Parameter(torch.tensor([100.0]))
        self.project = nn.ModuleDict(
            {name: nn.Linear(width, width) for name in ("image", "text")} if projection else {}
        )

    def positions_of(self, hidden: Tensor, modality: str) -> Tensor:
        """The vectors that vote: tower outputs (..., D), projected when the option is on. modality: image or text."""
        if not self.project:
            return hidden
        return F.normalize(self.project[modality](hidden).relu(), dim=-1)

    def similarity(self, hidden: Tensor, entries: Tensor) -> Tensor:
        """sigmoid(gamma * h . e): (..., S, D) and (..., E, D) -> (..., S, E), each in (0, 1)."""
        return torch.sigmoid(within(self.scale, 1, 1e4) * (hidden @ entries.transpose(-1, -2)))

    @torch.no_grad()
    def tally(self, hidden: Tensor, owner: Tensor, n: int, votes: Tensor | None = None) -> Tensor:
        """Total votes of each of n owners, (n, C). hidden: (T, D); owner: (T,); votes: (T,) bool, who has a vote.

        No gradient: the choice is discrete, and the published graph lets none through.
        """
        padded = F.pad(hidden, (0, 0, 0, rounded(len(hidden)) - len(hidden)))
        similarity = self.similarity(padded, self.entries)[: len(hidden)].float()
        if votes is not None:
            similarity = similarity * votes[:, None]
        return similarity.new_zeros(n, len(self.entries)).index_add_(0, owner, similarity)

    def choose(self, tally: Tensor) -> Tensor:
        """The K most voted entries of each sequence, most voted first: (n, C) -> (n, K)."""
        return tally.topk(self.chosen, dim=-1).indices

    @torch.no_grad()
    def nearest(self, hidden: Tensor) -> Tensor:
        """The nearest entry of each position by squared distance: (T, D) -> (T,)."""
        return torch.cdist(hidden.float(), self.entries.float()).argmin(-1)

    def loss(self, hidden: Tensor, valid: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The two terms of §3 summed, not averaged: (dictionary sum, its count, encoder sum, its count).

        hidden: (n, S, D) voting positions; valid: (n, S); chosen: (n, K) for topk, (n, S) for normal. Sums and counts
        are returned so that length buckets and ranks can be added before dividing. Only the targets are detached:
        through the weights both terms also reach the encoders, the entries and gamma (§3.3).
        """
        codes = F.embedding(chosen, self.entries).float()
        hidden, valid = hidden.float(), valid[..., None]
        width = hidden.shape[-1]
        positions = valid.sum() * width
        if self.method == "normal":
            to_entries = ((codes - hidden.detach()).square() * valid).sum()
            to_hidden = ((codes.detach() - hidden).square() * valid).sum()
            return to_entries, positions, to_hidden, positions
        votes = self.similarity(hidden, codes).float() * valid  # (n, S, K)
        over_positions = votes / (votes.sum(1, keepdim=True) + 1e-18)
        pooled = over_positions.transpose(1, 2) @ hidden  # (n, K, D)
        over_codes = votes / (votes.sum(2, keepdim=True) + 1e-18)
        rebuilt = over_codes @ codes  # (n, S, D)
        dictionary_term = ((hidden.detach() - rebuilt).square() * valid).sum()
        encoder_term = (codes.detach() - pooled).square().sum()
        return dictionary_term, positions, encoder_term, torch.tensor(codes.numel())
