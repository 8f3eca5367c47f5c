"""All that a trained model answers, in one object; and where it comes from and goes to."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from unimo.config import from_dict
from unimo.inference.classification import Classifier
from unimo.inference.generation import Generator
from unimo.inference.mask_filling import MaskFiller
from unimo.inference.matching import Matcher
from unimo.model.build import ModelSettings
from unimo.weights import pretrained
from unimo.weights.loading import load_model


class Pipeline(Matcher, Generator, MaskFiller, Classifier):
    """A model with its tokenizer and image pipeline. Answers do not depend on how inputs are batched."""

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes the model as a folder that `unimo.load` and the hub understand, with the facts of its run."""
        settings = from_dict(ModelSettings, self.facts["settings"]["model"])
        run = {key: self.facts[key] for key in ("step", "elapsed", "data") if key in self.facts}
        facts = {**self.facts.get("facts", {}), **run, "run": self.facts["settings"]}
        return pretrained.save_pretrained(self.model, folder, settings, facts=facts)

    def push_to_hub(self, name: str, *, private: bool = True, token: str | None = None) -> str:
        """Saves the model for a moment and uploads it as `name` (owner/model); returns where it is."""
        with tempfile.TemporaryDirectory() as folder:
            saved = self.save_pretrained(Path(folder) / name.rpartition("/")[2])
            return pretrained.push_to_hub(saved, name, private=private, token=token)


def load(
    source: str | Path, *, device: str | None = None, precision: str = "auto", revision: str | None = None
) -> Pipeline:
    """The model of a run, a checkpoint, a folder of `save_pretrained` or a name on the hub, ready to answer."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, saved = load_model(source, device=device, revision=revision)
    return Pipeline(model, precision=precision, facts={"path": str(saved.path), "step": saved.step, **saved.state})


def identity(pipeline: Pipeline) -> dict[str, Any]:
    """What decides its embeddings but for rounding: SHA-256 over settings, weights and their names; and precision."""
    settings = pipeline.facts.get("settings")
    model = settings.get("model") if isinstance(settings, dict) else None
    digest = hashlib.sha256(json.dumps([type(pipeline.model).__name__, model], sort_keys=True).encode())
    for name, weight in sorted(pipeline.model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().float().numpy().tobytes())  # numpy has no bfloat16
    return {"sha256": digest.hexdigest(), "precision": str(pipeline.dtype).removeprefix("torch.")}
