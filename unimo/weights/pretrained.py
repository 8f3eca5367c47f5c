"""Weights in the ecosystem's form: a folder anyone's tools can read, here or on the hub.

    config.json          the member, its settings, and what is known about the run
    model.safetensors    every parameter under our names
    check.safetensors    activations that loading compares with (`unimo.weights.reference_activations`)
    tokenizer.json ...   the tokenizer, as `transformers` reads it
    README.md            the model card

A folder is written under another name and then renamed: it is whole, or not there.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unimo.config import to_dict
from unimo.disk import disk_error
from unimo.errors import UsageError, WeightsError
from unimo.json_files import load_json, write_json
from unimo.model.build import ModelSettings, build, fill
from unimo.model.unified import Unified
from unimo.tokenizer import Tokenizer
from unimo.version import __version__
from unimo.weights import files, reference_activations, saved_settings
from unimo.weights.hub import fetch

CONFIG, WEIGHTS, CHECK, CARD = "config.json", "model.safetensors", "check.safetensors", "README.md"
FILES = (CONFIG, WEIGHTS, CHECK, CARD, "tokenizer.json", "tokenizer_config.json")


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
    state = {name: x.detach().cpu().float().contiguous() for name, x in model.named_parameters()}
    config: dict[str, Any] = {
        "model_type": settings.member,
        "architectures": [type(model).__name__],
        "unimo_version": __version__,
        "vocab_size": settings.vocabulary,
        "settings": {"model": to_dict(settings)},
        "known_words": None if model.vocabulary_subset is None else model.vocabulary_subset.tolist(),
        "facts": dict(facts or {}),
    }
    device, training = next(model.parameters()).device, model.training
    try:
        partial.mkdir(parents=True)
        write_json(partial / CONFIG, config)
        save_file(state, partial / WEIGHTS, metadata={"format": "pt"})
        stored = {name: x.contiguous() for name, x in reference_activations.activations(model.cpu().eval()).items()}
        save_file(stored, partial / CHECK, metadata={"format": "pt"})
        Tokenizer.default().save(partial)
        (partial / CARD).write_text(card(folder.name, settings, state, config["facts"]), encoding="utf-8")
        partial.rename(folder)
    except OSError as fault:
        raise disk_error(fault, folder) from fault
    finally:
        model.to(device).train(training)
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def is_pretrained(path: str | Path) -> bool:
    """Whether a folder is one that `save_pretrained` wrote (and no run, checkpoint or other people's model)."""
    return all((Path(path) / name).is_file() for name in (CONFIG, WEIGHTS, CHECK))


def from_pretrained(
    source: str | Path, *, revision: str | None = None, check: bool = True
) -> tuple[Unified, dict[str, Any]]:
    """The model of a folder, or of a name on the hub, in eval mode on the CPU; and its config.json.

    check: compare with the stored activations, one forward pass. Raises WeightsError: not such a folder, damaged, of
    another shape than it says, or not computing what it did when it was saved.
    """
    folder = fetch(source, FILES, revision=revision)
    if not is_pretrained(folder):
        raise WeightsError("not a saved model", where=folder, expected=f"a folder with {CONFIG}, {WEIGHTS}, {CHECK}")
    config, place = load_json(folder / CONFIG, error=WeightsError), folder / CONFIG
    settings = saved_settings.model_settings(config, place)
    known = saved_settings.vocabulary_subset(config, settings, place)
    if not isinstance(config.setdefault("facts", {}), dict):
        got = type(config["facts"]).__name__
        raise WeightsError("facts that are none", where=f"{place}: facts", got=got, expected="an object, or nothing")
    shapes = files.shapes(folder / WEIGHTS)
    saved_settings.check_shapes(settings, shapes, where=f"{place}: settings.model", weights=folder / WEIGHTS)
    weights = files.read(folder / WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        model = build(settings)
    fill(model, weights, where=folder / WEIGHTS)
    model.eval()
    if check:
        reference_activations.check(model, files.read(folder / CHECK), where=folder / WEIGHTS, said_in=place)
    if known is not None:
        model.know_words(known)
    return model, config


def push_to_hub(folder: str | Path, name: str, *, private: bool = True, token: str | None = None) -> str:
    """Uploads a folder that `save_pretrained` wrote to the hub as `name` (owner/model); returns where it is."""
    from huggingface_hub import HfApi

    if not is_pretrained(folder):
        raise UsageError("not a saved model", where=folder, expected="a folder written by save_pretrained")
    api = HfApi(token=token)
    api.create_repo(name, private=private, exist_ok=True)
    done = api.upload_folder(repo_id=name, folder_path=str(folder), allow_patterns=list(FILES))
    return str(done)


def card(name: str, settings: ModelSettings, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """The model card: what it is, how to use it, and the facts of its run as they were recorded."""
    count = sum(x.numel() for x in state.values())
    lines = ["---", "library_name: unimo", f"tags: [{settings.member}, vision-language]", "---", "", f"# {name}", ""]
    lines += [f"{settings.member.upper()} with {count:,} parameters, saved by unimo {__version__}.", ""]
    lines += ["```python", "import unimo", "", f'model = unimo.load("{name}")', "```", ""]
    if facts:
        lines += ["## How it came about", "", "| fact | value |", "| --- | --- |"]
        lines += [f"| {key} | {_in_a_cell(value)} |" for key, value in facts.items()]
        lines.append("")
    return "\n".join(lines)


def _in_a_cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|").replace("\n", " ")
