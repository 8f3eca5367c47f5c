"""The published configuration files (`unimo_base_en.json`, `grounded_base_en.json`; spec unimo §1.2, unimo2 §2.1).

They say what the tensors of an archive do not: heads, activation, dropout. Sizes stand in both and must agree. Keys of
the private pre-training code (mask ratios, image lengths) say nothing about the model and are passed over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from unimo.errors import WeightsError, nearest
from unimo.json_files import load_json
from unimo.model.build import ModelSettings
from unimo.model.transformer import ACTIVATIONS

FUSIONS = {"mul": "product", "sum": "sum"}
# Our setting -> the keys that say it; where a tower has its own key, all must say the same, for we have one setting.
TAKEN: dict[str, dict[str, tuple[str, ...]]] = {
    "unimo": {
        "hidden_act": ("hidden_act",),
        "heads": ("num_attention_heads",),
        "dropout": ("hidden_dropout_prob",),
        "attention_dropout": ("attention_probs_dropout_prob",),
        "initial_std": ("initializer_range",),
        "matching_fusion": ("fusion_method",),
    },
    "unimo-2": {
        "hidden_act": ("hidden_act", "text_hidden_act", "vit_hidden_act"),
        "heads": ("num_attention_heads", "text_num_attention_heads", "vit_num_attention_heads"),
        "dropout": ("hidden_dropout_prob", "text_hidden_dropout_prob"),
        "attention_dropout": ("attention_probs_dropout_prob", "text_attention_probs_dropout_prob"),
        "image_dropout": ("vit_hidden_dropout_prob",),
        "initial_std": ("initializer_range",),
        "matching_fusion": ("fusion_method",),
    },
}
# Our setting, read off the tensors -> the keys that must agree with it.
SAME: dict[str, dict[str, tuple[str, ...]]] = {
    "unimo": {
        "width": ("hidden_size", "emb_size"),
        "depth": ("num_hidden_layers",),
        "vocabulary": ("vocab_size",),
        "positions": ("max_position_embeddings",),
        "region_size": ("image_embedding_size",),
    },
    "unimo-2": {
        "width": ("hidden_size", "text_hidden_size", "vit_hidden_size"),
        "grounded_depth": ("num_hidden_layers",),
        "text_depth": ("text_num_hidden_layers",),
        "image_depth": ("vit_num_hidden_layers",),
        "vocabulary": ("text_vocab_size", "vocab_size"),
        "positions": ("text_max_position_embeddings", "max_position_embeddings"),
        "patch": ("resolution",),
        "image_size": ("image_size",),
    },
}
# What our graph has one form of.
FIXED = {
    "type_vocab_size": 0,
    "sent_type_vocab_size": 0,
    "task_type_vocab_size": 0,
    "vit_layer_norm_eps": 1e-12,
    "vit_attention_probs_dropout_prob": 0,
}


def find_config(source: str | Path) -> Path | None:
    """The configuration that lies with an archive: the one in its folder, or config/NAME.json beside it, as published.

    A .json file without any of the keys (an index of shards, a tokenizer) is none. WeightsError where it could be
    several, and for one that cannot be read.
    """
    source = Path(source)
    found = [path for path in sorted(source.glob("*.json")) if _is_configuration(path)] if source.is_dir() else []
    side_inputs = source.parent / "config" / f"{source.stem if source.is_file() else source.name}.json"
    found += [side_inputs] if side_inputs.is_file() else []
    if len(found) > 1:
        raise WeightsError(
            "several configurations lie with these weights",
            where=source,
            got=", ".join(map(str, found)),
            expected="one",
            do="name it: --config FILE",
        )
    return found[0] if found else None


def _is_configuration(path: Path) -> bool:
    content = load_json(path, error=WeightsError)
    keys = {key for table in (TAKEN, SAME) for member in table.values() for names in member.values() for key in names}
    return isinstance(content, dict) and bool(keys.intersection(content))


def configured(settings: ModelSettings, path: str | Path) -> tuple[ModelSettings, list[str]]:
    """Settings read off the tensors, completed by a published configuration; and the keys that were passed over.

    Raises WeightsError, naming the key, for a value that is none, that contradicts the tensors, or that our graph
    cannot express (an activation other than gelu and relu, type embeddings).
    """
    path = Path(path)
    config = load_json(path, max_bytes=1 << 20, error=WeightsError)
    if not isinstance(config, dict):
        raise WeightsError("not a configuration", where=path, got=type(config).__name__, expected="an object")
    taken, same = TAKEN[settings.member], SAME[settings.member]
    known = {key for keys in (*taken.values(), *same.values(), FIXED) for key in keys}
    if not known.intersection(config):
        raise WeightsError(
            "not the configuration of such a model",
            where=path,
            got=", ".join(list(config)[:6]),
            expected=", ".join(sorted(known)),
        )
    for ours, keys in same.items():
        for key in keys:
            _agree(config, key, getattr(settings, ours), f"as the tensors have it ({ours})", path)
    for key, value in FIXED.items():
        _agree(config, key, value, "the only form built here", path)
    values = {ours: value for ours, keys in taken.items() if (value := _said(ours, keys, config, path)) is not None}
    return replace(settings, **values), sorted(set(config) - known)


def _said(ours: str, keys: Iterable[str], config: dict[str, Any], path: Path) -> Any:
    """What the keys of one setting say, None where none is there."""
    present = [key for key in keys if key in config]
    for key in present:
        _fit(ours, key, config[key], path)
        if config[key] != config[present[0]]:
            raise WeightsError(
                "towers that differ",
                where=f"{path}, {key}",
                got=config[key],
                expected=f"{config[present[0]]}, as {present[0]}: one {ours} serves all towers",
            )
    if not present:
        return None
    value = config[present[0]]
    if ours == "matching_fusion":
        return FUSIONS[value]
    return value if ours in ("heads", "hidden_act") else float(value)


def _fit(ours: str, key: str, value: Any, path: Path) -> None:
    """Refuses what the setting cannot be."""
    choices = {"hidden_act": list(ACTIVATIONS), "matching_fusion": list(FUSIONS)}.get(ours)
    if choices is not None:
        right, expected = isinstance(value, str) and value in choices, " or ".join(choices)
    elif ours == "heads":
        right, expected = type(value) is int and value > 0, "a whole number above 0"
    else:
        right = type(value) in (int, float) and math.isfinite(value) and 0 <= value < 1
        expected = "a number from 0 up to, but not including, 1"
    if not right:
        near = nearest(value, choices) if choices is not None and isinstance(value, str) else None
        raise WeightsError(
            "a configuration that our model cannot express",
            where=f"{path}, {key}",
            got=value,
            expected=expected,
            do=f"did you mean {near}?" if near else None,
        )


def _agree(config: dict[str, Any], key: str, ours: Any, why: str, path: Path) -> None:
    if key not in config or (key == "emb_size" and config[key] is None):
        return
    if isinstance(config[key], bool) or config[key] != ours:
        raise WeightsError(
            "the configuration does not fit the weights",
            where=f"{path}, {key}",
            got=config[key],
            expected=f"{ours}, {why}",
            do="give the configuration that belongs to these weights (--config FILE), or move this one away",
        )
