"""Saved model: a folder that anyone's tools can read, here or on the hub.

    config.json          the member, its settings, what is known about the run, and a SHA-256 of settings and weights
    model.safetensors    every parameter under our names
    tokenizer.json ...   the tokenizer, as `transformers` reads it
    README.md            the model card

A folder is written under another name and then renamed: it is whole, or not there.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from unimo.config import to_dict
from unimo.disk import disk_error, file_sha256, write_new
from unimo.errors import UsageError, WeightsError
from unimo.json_files import json_bytes, load_json, write_json
from unimo.model.build import ModelSettings, build, fill
from unimo.model.unified import Unified
from unimo.tokenizer import Tokenizer
from unimo.version import __version__
from unimo.weights import files, saved_settings
from unimo.weights.hub import fetch

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FILES = (CONFIG, WEIGHTS, CARD, "tokenizer.json", "tokenizer_config.json")


def save_pretrained(
    model: Unified, folder: str | Path, settings: ModelSettings, *, facts: Mapping[str, Any] | None = None
) -> Path:
    """Writes a model into a new folder. settings: those it was built with. facts: of its run, for config and card.

    Raises UsageError where the folder exists, ResourceError when the disk is full.
    """
    folder = Path(folder)
    if folder.exists():
        raise UsageError("the folder exists", where=folder, expected="a new one", do="choose another name")
    partial = folder.with_name(f"{folder.name}.partial.{secrets.token_hex(4)}")
    config: dict[str, Any] = {
        "model_type": settings.member,
        "architectures": [type(model).__name__],
        "unimo_version": __version__,
        "vocab_size": settings.vocabulary,
        "settings": {"model": to_dict(settings)},
        "known_words": None if model.vocabulary_subset is None else model.vocabulary_subset.tolist(),
        "facts": dict(facts or {}),
    }
    try:
        partial.mkdir(parents=True)
        state = {name: x.detach().cpu().float().contiguous() for name, x in model.named_parameters()}
        write_new(partial / WEIGHTS, save(state, metadata={"format": "pt"}))
        write_json(partial / CONFIG, config | {"sha256": _sha256(config, partial)})
        Tokenizer.default().save(partial)
        count = sum(x.numel() for x in state.values())
        (partial / CARD).write_text(_card(folder.name, settings.member, count, config["facts"]), encoding="utf-8")
        partial.replace(folder)
    except OSError as fault:
        raise disk_error(fault, folder) from fault
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _sha256(config: Mapping[str, Any], folder: Path) -> str:
    """Of settings and weights together: heads or activation, which no shape tells, cannot change unnoticed either."""
    return hashlib.sha256(json_bytes([config["settings"]["model"], file_sha256(folder / WEIGHTS)])).hexdigest()


def is_pretrained(path: str | Path) -> bool:
    """Whether a folder has the files of a saved model (no run or checkpoint has)."""
    return all((Path(path) / name).is_file() for name in (CONFIG, WEIGHTS))


def from_pretrained(source: str | Path, *, revision: str | None = None) -> tuple[Unified, dict[str, Any]]:
    """The model of a folder, or of a name on the hub, in eval mode on the CPU; and its config.json.

    Raises WeightsError: not such a folder, damaged, of another shape than it says, or not what was saved.
    """
    folder = fetch(source, FILES, revision=revision)
    if not is_pretrained(folder):
        raise WeightsError("not a saved model", where=folder, expected=f"a folder with {CONFIG} and {WEIGHTS}")
    place, weights = folder / CONFIG, folder / WEIGHTS
    config = load_json(place, error=WeightsError)
    settings = saved_settings.model_settings(config, place)
    known = saved_settings.vocabulary_subset(config, settings, place)
    if not isinstance(config.setdefault("facts", {}), dict):
        got = type(config["facts"]).__name__
        raise WeightsError("facts that are none", where=f"{place}: facts", got=got, expected="an object, or nothing")
    saved_settings.check_shapes(settings, files.shapes(weights), where=f"{place}: settings.model", weights=weights)
    if "sha256" in config and config["sha256"] != (found := _sha256(config, folder)):
        what, where = "settings or weights have changed since they were saved", f"{place}: sha256; {weights}"
        do = "fetch both again; or, where the change is meant, remove sha256 from the configuration"
        raise WeightsError(what, where=where, got=found, expected=config["sha256"], do=do)
    tensors = files.read(weights)
    with torch.random.fork_rng(devices=[]):
        model = build(settings)
    fill(model, tensors, where=weights)
    if known is not None:
        model.know_words(known)
    return model.eval(), config


def push_to_hub(folder: str | Path, name: str, *, private: bool = True, token: str | None = None) -> str:
    """Uploads a folder that `save_pretrained` wrote to the hub as `name` (owner/model); returns where it is."""
    from huggingface_hub import HfApi

    if not is_pretrained(folder):
        raise UsageError("not a saved model", where=folder, expected="a folder written by save_pretrained")
    api = HfApi(token=token)
    api.create_repo(name, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=name, folder_path=str(folder), allow_patterns=list(FILES)))


def _card(name: str, member: str, parameters: int, facts: Mapping[str, Any]) -> str:
    """The model card: what it is, how to use it, and the facts of its run as they were recorded."""
    lines = ["---", "library_name: unimo", f"tags: [{member}, vision-language]", "---", "", f"# {name}", ""]
    lines += [f"{member.upper()} with {parameters:,} parameters, saved by unimo {__version__}.", ""]
    lines += ["```python", "import unimo", "", f'model = unimo.load("{name}")', "```", ""]
    if facts:
        lines += ["## How it came about", "", "| fact | value |", "| --- | --- |"]
        lines += [f"| {key} | {_in_a_cell(value)} |" for key, value in facts.items()]
        lines.append("")
    return "\n".join(lines)


def _in_a_cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|").replace("\n", " ")
