"""Published configuration files (`unimo_base_en.json`, `grounded_base_en.json`; spec unimo §1.2, unimo2 §2.1).

They say what the tensors of an archive do not: heads, activation, dropout. Sizes stand in both and must agree. Keys of
the private pre-training code (mask ratios, image lengths) say nothing about the model and are passed over.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from unimo.errors import WeightsError, did_you_mean
from unimo.json_files import load_json
from unimo.model.build import ModelSettings
from unimo.model.transformer import ACTIVATIONS

FUSIONS = {"mul": "product", "sum": "sum"}
# Key -> our setting that it decides. Where a tower has its own key, all must say the same, for we have one setting.
UNIMO_DECIDES = {
    "hidden_act": "hidden_act", "num_attention_heads": "heads", "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout", "initializer_range": "initial_std",
    "fusion_method": "matching_fusion",
}  # fmt: skip
UNIMO2_DECIDES = UNIMO_DECIDES | {
    "text_hidden_act": "hidden_act", "vit_hidden_act": "hidden_act", "text_num_attention_heads": "heads",
    "vit_num_attention_heads": "heads", "text_hidden_dropout_prob": "dropout",
    "vit_hidden_dropout_prob": "image_dropout", "text_attention_probs_dropout_prob": "attention_dropout",
}  # fmt: skip
# Key -> our setting, read off the tensors, that must agree with it.
UNIMO_AGREES = {
    "hidden_size": "width", "emb_size": "width", "num_hidden_layers": "depth", "vocab_size": "vocabulary",
    "max_position_embeddings": "positions", "image_embedding_size": "region_size",
}  # fmt: skip
UNIMO2_AGREES = {
    "hidden_size": "width", "text_hidden_size": "width", "vit_hidden_size": "width",
    "num_hidden_layers": "grounded_depth", "text_num_hidden_layers": "text_depth",
    "vit_num_hidden_layers": "image_depth", "text_vocab_size": "vocabulary", "vocab_size": "vocabulary",
    "text_max_position_embeddings": "positions", "max_position_embeddings": "positions", "resolution": "patch",
    "image_size": "image_size",
}  # fmt: skip
FIXED = {  # what our graph has one form of
    "type_vocab_size": 0, "sent_type_vocab_size": 0, "task_type_vocab_size": 0, "vit_layer_norm_eps": 1e-12,
    "vit_attention_probs_dropout_prob": 0,
}  # fmt: skip


def find_config(source: str | Path) -> Path | None:
    """The configuration that lies with an archive: the one in its folder, or config/NAME.json beside it, as published.

    A .json file without any of the keys (an index of shards, a tokenizer) is none. WeightsError where it could be
    several, and for one that cannot be read.
    """
    source = Path(source)
    keys = {*UNIMO2_DECIDES, *UNIMO_AGREES, *UNIMO2_AGREES}
    found = []
    for path in sorted(source.glob("*.json")) if source.is_dir() else ():
        content = load_json(path, error=WeightsError)
        found += [path] if isinstance(content, dict) and keys & content.keys() else []
    beside = source.parent / "config" / f"{source.stem if source.is_file() else source.name}.json"
    found += [beside] if beside.is_file() else []
    if len(found) > 1:
        what, got = "several configurations lie with these weights", ", ".join(map(str, found))
        raise WeightsError(what, where=source, got=got, expected="one", do="name it: --config FILE")
    return found[0] if found else None


def configured(settings: ModelSettings, path: str | Path) -> tuple[ModelSettings, list[str]]:
    """Settings read off the tensors, completed by a published configuration; and the keys that were passed over.

    Raises WeightsError, naming the key, for a value that is none, that contradicts the tensors, or that our graph
    cannot express (an activation other than gelu and relu, type embeddings).
    """
    path, unimo = Path(path), settings.member == "unimo"
    config = load_json(path, max_bytes=1 << 20, error=WeightsError)
    decides, agrees = (UNIMO_DECIDES, UNIMO_AGREES) if unimo else (UNIMO2_DECIDES, UNIMO2_AGREES)
    known = {*decides, *agrees, *FIXED}
    if not isinstance(config, dict) or not known & config.keys():
        got = ", ".join(list(config)[:6]) if isinstance(config, dict) else type(config).__name__
        what, expected = "not the configuration of such a model", ", ".join(sorted(known))
        raise WeightsError(what, where=path, got=got, expected=expected)
    same = {key: (getattr(settings, ours), f"as the tensors have it ({ours})") for key, ours in agrees.items()}
    same |= {key: (value, "the only form built here") for key, value in FIXED.items()}
    for key in filter(config.__contains__, same):
        value, (ours, why) = config[key], same[key]
        if (isinstance(value, bool) or value != ours) and not (key == "emb_size" and value is None):
            what, do = (
                "the configuration does not fit the weights",
                "give the right one (--config FILE), or move it away",
            )
            raise WeightsError(what, where=f"{path}, {key}", got=value, expected=f"{ours}, {why}", do=do)
    decided: dict[str, Any] = {}
    for key in filter(config.__contains__, decides):
        value = _value(decides[key], config[key], where := f"{path}, {key}")
        if decided.setdefault(decides[key], value) != value:
            other = decided[decides[key]]
            expected = f"{other}, as another tower has it: one {decides[key]} serves all"
            raise WeightsError("towers that differ", where=where, got=value, expected=expected)
    return replace(settings, **decided), sorted(config.keys() - known)


def _value(setting: str, value: Any, where: str) -> Any:
    """What a key says, as our setting has it. Refuses what the setting cannot be."""
    choices = {"hidden_act": list(ACTIVATIONS), "matching_fusion": list(FUSIONS)}.get(setting)
    if choices is not None:
        right, expected = isinstance(value, str) and value in choices, " or ".join(choices)
    elif setting == "heads":
        right, expected = type(value) is int and value > 0, "a whole number above 0"
    else:
        right = type(value) in (int, float) and math.isfinite(value) and 0 <= value < 1
        expected = "a number from 0 up to, but not including, 1"
    if not right:
        do = did_you_mean(value, choices) if choices is not None and isinstance(value, str) else None
        what = "a configuration that our model cannot express"
        raise WeightsError(what, where=where, got=value, expected=expected, do=do)
    if setting == "matching_fusion":
        return FUSIONS[value]
    return value if setting in ("heads", "hidden_act") else float(value)
