"""The published weights of UNIMO and UNIMO-2 as our models: sizes read off the tensors, every tensor accounted for.

    C dictionary · D width · P patches

Sources are the archives of the first release (a folder with a file per variable), the same variables combined in one
file with a list of their names, and Paddle 2 pickles of these names. See `unimo.weights.files` for how they are
read without their framework, and without running anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unimo.config import override
from unimo.errors import WeightsError
from unimo.model.build import SIZES, ModelSettings, Size, as_released, build
from unimo.model.unified import Unified
from unimo.weights import files
from unimo.weights.key_map import LoadReport, convert, line
from unimo.weights.published_config import configured, find_config
from unimo.weights.published_names import is_leftover, key_maps
from unimo.weights.saving import save_pretrained

HEAD_SIZE = 64  # of every published model; the tensors do not say, a configuration does
TASK_HEADS = ("cls_out_", "match_fc.")


@dataclass(frozen=True)
class Converted:
    """Model of a published source, and what became of its tensors. heads: fine-tuned heads of tasks, under their
    published names. notes: what else is to be said, such as which configuration was read."""

    model: Unified
    settings: ModelSettings
    report: LoadReport
    skipped: list[str]
    heads: dict[str, Tensor]
    notes: list[str]

    def table(self) -> list[str]:
        """One line for each fate of a tensor, and the notes."""
        fates = [*self.report.table(), line("optimizer", self.skipped), line("task heads", sorted(self.heads))]
        return [*fates, *self.notes]


def convert_published(
    source: str | Path,
    *,
    assignments: Sequence[str] = (),
    released: bool = True,
    strict: bool = True,
    config: str | Path | None = None,
    names: str | Path | None = None,
) -> Converted:
    """The model of a published archive, combined file or .pdparams.

    assignments: KEY=VALUE settings that neither tensors nor configuration say (model.heads), or that shall differ.
    released: build UNIMO-2 with the quirks of the published graph, as its weights were trained. strict: refuse tensors
    missing, of another shape, or left over. config: the published configuration; None: that which lies with the
    weights, if any (`find_config`). names: the list of names of a combined file; None: that which lies with it.
    Raises WeightsError for what does not fit, and for what is no such archive.
    """
    weights = files.read(source, names=names)
    skipped = sorted(name for name in weights if is_leftover(name))
    heads = {name: x for name, x in weights.items() if name.startswith(TASK_HEADS)}
    body = {name: x for name, x in weights.items() if name not in heads and not is_leftover(name)}
    settings, notes = read_settings(body, where=source), []
    config = find_config(source) if config is None else config
    if config is not None:
        settings, unread = configured(settings, config)
        notes = [f"    config {Path(config)}", line("not read", unread)]
    if released and settings.member == "unimo-2":
        settings = as_released(settings)
    settings = override(settings, [change.removeprefix("model.") for change in assignments])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(settings).eval()
    first = min(_layer_numbers(body, "grounded."), default=0)
    report = convert(model, key_maps(model, first_grounded_layer=first), body, where=source, strict=strict)
    return Converted(model, settings, report, skipped, heads, notes)


def read_settings(weights: Mapping[str, Tensor], *, where: object) -> ModelSettings:
    """What the names and shapes of published tensors say about their model."""
    if "text.word_embedding" in weights:
        return _unimo2(weights, where)
    if "word_embedding" in weights:
        return _unimo(weights, where)
    raise WeightsError(
        "not the weights of UNIMO or UNIMO-2",
        where=where,
        got=", ".join(sorted(weights)[:5]),
        expected="word_embedding (UNIMO) or text.word_embedding (UNIMO-2) among the tensors",
    )


def _unimo(weights: Mapping[str, Tensor], where: object) -> ModelSettings:
    vocabulary, width = _shape(weights, "word_embedding", 2, where)
    match = weights.get("img_text_matching_fc.w_0")
    return ModelSettings(
        member="unimo",
        size=_size(width),
        width=width,
        heads=max(1, width // HEAD_SIZE),
        depth=_depth(weights, ""),
        vocabulary=vocabulary,
        positions=_shape(weights, "pos_embedding", 2, where)[0],
        tie_word_embeddings="mask_lm_out_fc.w_0" not in weights,
        region_size=_shape(weights, "image_emb.w_0", 2, where)[0],
        dialogue="role_embedding" in weights,
        matching=0 if match is None else match.shape[1],
    )


def _unimo2(weights: Mapping[str, Tensor], where: object) -> ModelSettings:
    vocabulary, width = _shape(weights, "text.word_embedding", 2, where)
    patch = _shape(weights, "vit.patch_embeddings_projection_weight", 4, where)[3]
    grid = round((_shape(weights, "vit.position_embeddings", 3, where)[1] - 1) ** 0.5)
    return ModelSettings(
        size=_size(width),
        width=width,
        heads=max(1, width // HEAD_SIZE),
        image_depth=_depth(weights, "vit."),
        text_depth=_depth(weights, "text."),
        grounded_depth=_depth(weights, "grounded."),
        image_size=grid * patch,
        patch=patch,
        vocabulary=vocabulary,
        positions=_shape(weights, "text.pos_embedding", 2, where)[0],
        tie_word_embeddings="grounded.mask_lm_out_fc.w_0" not in weights,
        dictionary=_shape(weights, "vq_emb", 2, where)[0] if "vq_emb" in weights else 0,
        grounding_projection="grounded.grounding_patch_projection.w_0" in weights,
        contrastive_projection="grounded.cmcl_pooled_fc_text.w_0" in weights,
        masked_grounding="grounded.mask_g_trans_fc.w_0" in weights,
        image_contrastive=False,
    )


def _shape(weights: Mapping[str, Tensor], name: str, dimensions: int, where: object) -> tuple[int, ...]:
    got = tuple(weights[name].shape) if name in weights else None
    if got is None or len(got) != dimensions:
        expected = f"{dimensions} dimensions"
        raise WeightsError("a tensor is missing", where=f"{where}, {name}", got=got or "nothing", expected=expected)
    return got


def _layer_numbers(weights: Mapping[str, Tensor], prefix: str) -> set[int]:
    pattern = re.compile(re.escape(prefix) + r"encoder_layer_(\d{1,3})_.+")
    return {int(found[1]) for name in weights if (found := pattern.fullmatch(name))}


def _depth(weights: Mapping[str, Tensor], prefix: str) -> int:
    return max(1, len(_layer_numbers(weights, prefix)))


def _size(width: int) -> Size:
    """The named size of this width, or the nearest name; all its dimensions are given beside it."""
    return min(SIZES, key=lambda name: abs(SIZES[name]["width"] - width))


def save_converted(
    converted: Converted, source: str | Path, out: str | Path, *, facts: Mapping[str, Any] | None = None
) -> Path:
    """The saved folder, with the heads of tasks (if any) in heads.safetensors under their published names."""
    facts = {
        **(facts or {}),
        "converted from": Path(source).name,
        "tensors": {kind: len(names) for kind, names in vars(converted.report).items()},
        "missing": converted.report.missing,
    }
    folder = save_pretrained(converted.model, out, converted.settings, facts=facts)
    if converted.heads:
        save_file({name: x.contiguous() for name, x in converted.heads.items()}, folder / "heads.safetensors")
    return folder
