"""Saved folders: what comes back is what was saved, whoever opens it, and nothing else comes back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import unimo
from unimo.errors import UsageError, WeightsError
from unimo.model.build import ModelSettings, build
from unimo.tokenizer import Tokenizer
from unimo.weights import hub
from unimo.weights.init_from import start_from
from unimo.weights.loading import from_pretrained, load_model
from unimo.weights.saving import push_to_hub, save_pretrained

SMALL = {"size": "tiny", "width": 16, "heads": 2, "vocabulary": 50265, "positions": 40}
SETTINGS = {
    "unimo-2": ModelSettings(
        **SMALL, image_depth=2, text_depth=2, grounded_depth=2, image_size=16, patch=8, dictionary=12, chosen=4,
        masked_grounding=True,
    ),
    "projected": ModelSettings(
        **SMALL, image_depth=1, text_depth=1, grounded_depth=1, image_size=16, patch=8, dictionary=12, chosen=4,
        grounding_projection=True, contrastive_projection=True,
    ),
    "baseline": ModelSettings(
        **SMALL, image_depth=1, text_depth=1, grounded_depth=1, image_size=16, patch=8, dictionary=0
    ),
    "unimo": ModelSettings(
        member="unimo", **SMALL, depth=2, region_size=12, region_classes=7, region_heads=True, matching=2, dialogue=True
    ),
}  # fmt: skip


def lively(settings: ModelSettings, seed: int = 0):
    """A model in which no two parameters are equal: fresh LayerNorms all are."""
    torch.manual_seed(seed)
    model = build(settings).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith(("temperature.value", "dictionary.scale")):
                parameter.add_(0.3 * torch.randn_like(parameter))
        for i, name in enumerate(("contrastive_temperature", "image_temperature")):
            if getattr(model, name, None) is not None:
                getattr(model, name).value.fill_(0.1 + 0.1 * i)
    return model


@pytest.mark.parametrize("kind", SETTINGS)
def test_what_is_saved_comes_back(tmp_path, kind):
    model = lively(SETTINGS[kind])
    model.know_words(torch.tensor([4, 5, 9]))
    folder = save_pretrained(model, tmp_path / "out", SETTINGS[kind], facts={"step": 7, "seed": "3 | 4"})
    again, config = from_pretrained(folder)
    assert type(again) is type(model) and not again.training
    for (name, a), b in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert again.vocabulary_subset.tolist() == [4, 5, 9] and config["facts"]["step"] == 7
    loaded, saved = load_model(folder)
    assert saved.step == 7 and type(loaded) is type(model)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n") and "3 \\| 4" in card and f"{sum(p.numel() for p in model.parameters()):,}" in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("change", ["swap", "bit", "heads", "hidden_act", "chosen"])
def test_a_change_that_no_shape_tells_is_noticed(tmp_path, change):
    """Two tensors of one shape that changed places, a flipped bit, a setting that no tensor's shape depends on."""
    folder = save_pretrained(lively(SETTINGS["unimo-2"]), tmp_path / "out", SETTINGS["unimo-2"])
    path, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    if change == "swap":
        weights = load_file(path)
        a, b = "text_encoder.layers.0.ffn_norm.bias", "grounded_encoder.layers.1.attention_norm.bias"
        weights[a], weights[b] = weights[b].clone(), weights[a].clone()
        save_file(weights, path)
    elif change == "bit":
        data = path.read_bytes()
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    else:
        config["settings"]["model"][change] = {"heads": 4, "hidden_act": "relu", "chosen": 3}[change]
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="have changed") as caught:
        from_pretrained(folder)
    assert "config.json" in str(caught.value.where) and "model.safetensors" in str(caught.value.where)
    del config["sha256"]  # the way out for one who means it
    (folder / "config.json").write_text(json.dumps(config))
    from_pretrained(folder)


def test_transformers_reads_the_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    Tokenizer.default().save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    text = "Two dogs play; one doesn't bark! 北京 😀"
    ours = Tokenizer.default()
    assert theirs(text)["input_ids"] == [ours.cls, *ours.encode(text), ours.sep]
    assert theirs("a", " b")["input_ids"] == [ours.cls, *ours.encode("a"), ours.sep, *ours.encode(" b"), ours.sep]
    assert (theirs.mask_token_id, theirs.pad_token_id, len(theirs)) == (ours.mask, ours.pad, ours.vocab_size)


@pytest.mark.parametrize("kind", ["unimo-2", "unimo"])
def test_transformers_opens_a_saved_folder(tmp_path, monkeypatch, kind):
    """By AutoModel, and as a pipeline: the same numbers as ours, and no warning of another type of model."""
    import transformers

    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = save_pretrained(lively(SETTINGS[kind]), tmp_path / "out", SETTINGS[kind])
    theirs = transformers.AutoModel.from_pretrained(str(folder), trust_remote_code=True)
    assert type(theirs).__name__ == {"unimo": "UnimoModel", "unimo-2": "Unimo2Model"}[kind]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=True)
    texts = ["a dog", "two dogs run in the snow"]
    found = theirs(**tokenizer(texts, padding=True, return_tensors="pt"))
    ours = unimo.load(folder, device="cpu", precision="fp32")
    torch.testing.assert_close(found.text_embeds, torch.from_numpy(ours.encode_text(texts)), atol=1e-5, rtol=0)
    with pytest.raises(WeightsError, match="have changed"):  # the seal is looked at here too
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "sha256": "0" * 64}))
        transformers.AutoModel.from_pretrained(str(folder), trust_remote_code=True)
    (folder / "config.json").write_text(json.dumps(config))
    if kind == "unimo-2":
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        embedding = torch.from_numpy(ours.encode_image([image]))
        torch.testing.assert_close(theirs(pixel_values=pixels).image_embeds, embedding, atol=1e-5, rtol=0)
        captioner = transformers.pipeline(model=str(folder), trust_remote_code=True)
        written = captioner(image, num_beams=2, max_length=5)
        assert written == [{"generated_text": ours.caption([image], num_beams=2, max_length=5)[0]}]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: (folder / "config.json").unlink(), "not a saved model"),
        (lambda folder: (folder / "config.json").write_text("[]"), "no settings"),
        (lambda folder: (folder / "config.json").write_text('{"settings": {"model": {"widht": 3}}}'), "widht"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04."), "model.safetensors"),
    ],
)
def test_damaged_folders_are_refused(tmp_path, damage, message):
    folder = save_pretrained(lively(SETTINGS["baseline"]), tmp_path / "out", SETTINGS["baseline"])
    damage(folder)
    with pytest.raises((WeightsError, UsageError), match=message):
        from_pretrained(folder)


def test_an_existing_folder_is_never_written_into(tmp_path):
    with pytest.raises(UsageError, match="exists"):
        save_pretrained(lively(SETTINGS["baseline"]), tmp_path, SETTINGS["baseline"])


def test_a_name_on_the_hub_is_fetched_only_when_given(tmp_path, monkeypatch):
    import huggingface_hub

    folder = save_pretrained(lively(SETTINGS["baseline"]), tmp_path / "out", SETTINGS["baseline"])
    fetched = []

    def snapshot(name, revision, allow_patterns):
        fetched.append((name, revision))
        if name != "lab/model":
            raise ConnectionError("no network")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    from_pretrained("lab/model", revision="v1")
    assert fetched == [("lab/model", "v1")]
    with pytest.raises(WeightsError, match="no network"):
        from_pretrained("lab/other")
    for path in (Path("lab/model"), "../model", "/nowhere/at/all"):
        with pytest.raises(WeightsError, match="no such folder"):
            hub.fetch(path, ["config.json"])
    assert len(fetched) == 2


def test_pushing_uploads_the_saved_files(tmp_path, monkeypatch):
    import huggingface_hub

    class Api:
        def __init__(self, token):
            self.token = token

        def create_repo(self, name, private, exist_ok):
            seen.append((name, private, exist_ok))

        def upload_folder(self, repo_id, folder_path, allow_patterns):
            seen.append((repo_id, sorted(p.name for p in Path(folder_path).iterdir()), sorted(allow_patterns)))
            return "there"

    seen: list = []
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    folder = save_pretrained(lively(SETTINGS["baseline"]), tmp_path / "out", SETTINGS["baseline"])
    assert push_to_hub(folder, "lab/model") == "there"
    assert seen[0] == ("lab/model", True, True) and seen[1][1] == seen[1][2]
    with pytest.raises(UsageError):
        push_to_hub(tmp_path, "lab/model")


def test_starting_from_other_weights(tmp_path):
    small = replace(SETTINGS["unimo-2"], masked_grounding=False, image_contrastive=False)
    folder = save_pretrained(lively(small), tmp_path / "out", small)
    model = lively(SETTINGS["unimo-2"], 1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = start_from(model, folder)
    theirs = dict(load_model(folder)[0].named_parameters())
    assert report.missing and all(name.startswith(("masked_grounding", "image_temp")) for name in report.missing)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, theirs[name] if name in theirs else before[name]), name
    with pytest.raises(WeightsError, match="masked_grounding"):
        whole = save_pretrained(lively(SETTINGS["unimo-2"]), tmp_path / "whole", SETTINGS["unimo-2"])
        start_from(build(small), whole)
