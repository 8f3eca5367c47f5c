"""Saved model: a folder that anyone's tools can read, here or on the hub.

    config.json          the member, its settings, what is known about the run, and a SHA-256 of settings and weights
    model.safetensors    every parameter under our names
    tokenizer.json ...   the tokenizer, as `transformers` reads it
    README.md            the model card
    modeling_unimo       three lines of code by which transformers' AutoModel finds the package

A folder is written under another name and then renamed: it is whole, or not there.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unimo.config import to_dict
from unimo.disk import disk_error, write_new
from unimo.errors import UsageError
from unimo.formatting import markdown_table
from unimo.json_files import write_json
from unimo.model.build import ModelSettings
from unimo.model.unified import Unified
from unimo.safetensors_files import safetensors_pieces
from unimo.tokenizer import Tokenizer
from unimo.version import __version__
from unimo.weights.loading import CONFIG, WEIGHTS, is_pretrained, seal

CARD, CODE = "README.md", "modeling_unimo.py"
FILES = (CONFIG, WEIGHTS, CARD, CODE, "tokenizer.json", "tokenizer_config.json")
# What transformers runs, after its user has said so (trust_remote_code=True), to open such a folder.
MODELING = '''"""UNIMO and UNIMO-2 for transformers. All of it is in the package: pip install unimo."""

from unimo.inference.auto import CaptioningPipeline, Unimo2Config, Unimo2Model, UnimoConfig, UnimoModel
'''
PIPELINES = {"unimo-captioning": {"impl": "modeling_unimo.CaptioningPipeline", "pt": ["AutoModel"]}}


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
    prefix = "Unimo" if settings.member == "unimo" else "Unimo2"
    config: dict[str, Any] = {
        "model_type": settings.member,
        "architectures": [type(model).__name__],
        "auto_map": {f"Auto{kind}": f"modeling_unimo.{prefix}{kind}" for kind in ("Config", "Model")},
        "custom_pipelines": PIPELINES,
        "unimo_version": __version__,
        "vocab_size": settings.vocabulary,
        "settings": {"model": to_dict(settings)},
        "known_words": None if model.vocabulary_subset is None else model.vocabulary_subset.tolist(),
        "facts": dict(facts or {}),
    }
    try:
        partial.mkdir(parents=True)
        state = {name: x.detach().cpu().float().contiguous() for name, x in model.named_parameters()}
        write_new(partial / WEIGHTS, safetensors_pieces(state, where=WEIGHTS))
        write_json(partial / CONFIG, config | {"sha256": seal(config, partial / WEIGHTS)})
        Tokenizer.default().save(partial)
        count = sum(x.numel() for x in state.values())
        (partial / CODE).write_text(MODELING, encoding="utf-8")
        (partial / CARD).write_text(_card(folder.name, settings.member, count, config["facts"]), encoding="utf-8")
        partial.replace(folder)
    except OSError as fault:
        raise disk_error(fault, folder) from fault
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


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
        said = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in facts.values()]
        lines += ["## How it came about", "", *markdown_table(("fact", "value"), *zip(facts, said)), ""]
    return "\n".join(lines)
