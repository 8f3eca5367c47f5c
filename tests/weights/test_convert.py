"""From published weights to a folder, and from other people's towers: through the verbs of the command line."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from parity.golden_files import close, real_tokens, scenario
from parity.test_unimo_golden import read_pairs
from tiny_run import quiet, tiny, write_tiny_world
from weights.test_saved_settings import shapes_alone

from unimo import cli
from unimo.batch import TEXT, Batch, Texts
from unimo.config import to_dict
from unimo.decoding.decoder import pad_texts
from unimo.errors import UsageError, WeightsError
from unimo.model.build import ModelSettings
from unimo.model.task_heads import HeadSettings
from unimo.model.unified import Request
from unimo.model.unimo import UNIMO
from unimo.train.loop import train
from unimo.weights.convert import convert_published
from unimo.weights.init_from import init_from_pretrained
from unimo.weights.loading import load_model

HEADS = ["model.heads=2"]


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["unimo", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)


def test_an_archive_of_unimo(golden, tmp_path, monkeypatch, capsys):
    """One file a variable, optimizer state among them; the converted model computes what the published graph did."""
    folder = golden / "checkpoints"
    run(monkeypatch, "convert", str(folder / "paddle1_per_variable"), str(tmp_path / "out"), "--set", *HEADS)
    told = capsys.readouterr().out
    assert "loaded" in told and "@LR_DECAY_COUNTER@" in told
    model, saved = load_model(tmp_path / "out")
    assert isinstance(model, UNIMO) and saved.state["facts"]["converted from"] == "paddle1_per_variable"
    x = scenario(folder, "paddle1_forward")
    with torch.no_grad():
        fused, _, real = read_pairs(model, x)
    valid = x["in.image_mask"][..., 0].bool()
    expected = torch.cat([x["out.image_sequence"], x["out.text_sequence"]], 1)
    close(fused.hidden, expected[torch.cat([valid, real], 1)])
    close(model.text_pooler(fused.text_cls()), x["out.pooled_text"])


def test_a_pickle_of_unimo2(golden):
    folder = golden / "checkpoints"
    converted = convert_published(folder / "paddle2_unimo2.pdparams", assignments=[*HEADS, "model.chosen=4"])
    assert not converted.report.missing and not converted.skipped and not converted.heads
    assert converted.settings.patch_padding == 1 and converted.settings.released.padding_votes
    assert (converted.settings.image_size, converted.settings.patch, converted.settings.dictionary) == (56, 4, 20)
    x = scenario(folder, "paddle2_forward")
    real = real_tokens(x["in.text_mask"])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), real.sum(1).cumsum(0)])
    ids = x["in.src_ids"][..., 0][real]
    texts = pad_texts(Texts(ids, x["in.pos_ids"][..., 0][real], torch.full_like(ids, TEXT), offsets), 1)[0]
    model = converted.model
    with torch.no_grad():
        towers = model.towers(Batch(0, torch.zeros(0, 3, 56, 56, dtype=torch.uint8), texts, {}, {}, {}))
        fused = model.fuse(towers, {"read": Request(None, torch.arange(len(real)))})["read"]
    assert fused.codes.tolist() == x["out.grounded_indices"].tolist()
    hidden = fused.hidden.unflatten(0, (len(real), 4 + real.shape[1]))
    close(hidden[:, 4:][real], x["out.fused_text"][real])
    close(hidden[:, :4], x["out.fused_grounded"])
    close(model.text_pooler(fused.text_cls()), x["out.pooled_text"])


def test_ours_leaves_the_slips_out(golden):
    source = golden / "checkpoints" / "paddle2_unimo2.pdparams"
    settings = convert_published(source, assignments=HEADS, released=False).settings
    assert settings.patch_padding == 0 and not any(vars(settings.released).values())


def test_every_tensor_is_accounted_for(golden, tmp_path):
    """A tensor less, more, or of another shape is refused by name; with permission it is listed."""
    source = tmp_path / "archive"
    shutil.copytree(golden / "checkpoints" / "paddle1_per_variable", source)
    shutil.copy(source / "image_loc.b_0", source / "image_predict_fc.b_0")
    (source / "pooled_fc_text.b_0").unlink()
    shutil.copy(source / "image_loc.w_0", source / "image_loc.b_0")
    with pytest.raises(WeightsError) as error:
        convert_published(source, assignments=HEADS)
    assert all(name in str(error.value.got) for name in ("text_pooler", "regions.box.bias", "image_predict_fc.b_0"))
    report = convert_published(source, assignments=HEADS, strict=False).report
    assert report.missing == ["text_pooler.linear.bias"] and report.extra == ["image_predict_fc.b_0"]


def test_heads_of_tasks_are_kept(golden, tmp_path, monkeypatch):
    source = tmp_path / "archive"
    shutil.copytree(golden / "checkpoints" / "paddle1_per_variable", source)
    shutil.copy(source / "pooled_fc_text.b_0", source / "cls_out_3_b")
    run(monkeypatch, "convert", str(source), str(tmp_path / "out"), "--set", *HEADS)
    assert (tmp_path / "out" / "heads.safetensors").exists()
    load_model(tmp_path / "out")


def test_a_run_becomes_a_folder_that_answers_the_same(tmp_path, monkeypatch, capsys):
    train(tiny(write_tiny_world(tmp_path / "world"), "steps=2"), tmp_path / "run", say=quiet)
    run(monkeypatch, "convert", str(tmp_path / "run"), str(tmp_path / "out"))
    (before, _), (after, saved) = load_model(tmp_path / "run"), load_model(tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert saved.step == 2 and "run" in saved.state["facts"]
    capsys.readouterr()
    told = []
    for what in ("run", "run/settings.json", "out"):
        run(monkeypatch, "describe", str(tmp_path / what))
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] == told[2] and "parameters" in told[0]
    monkeypatch.setattr(sys, "argv", ["unimo", "convert", str(tmp_path / "run"), str(tmp_path / "again"), "--ours"])
    with pytest.raises(SystemExit) as ended:  # nothing that is asked for is passed over
        cli.main()
    assert ended.value.code == UsageError.exit_code and not (tmp_path / "again").exists()


def test_the_head_of_a_task_is_described(tmp_path, monkeypatch, capsys):
    """The settings of a fine-tuning run are other settings, and its model has a part more."""
    model = to_dict(ModelSettings(size="tiny", head=HeadSettings(labels=("dog", "cat"))))
    (tmp_path / "settings.json").write_text(json.dumps({"task": "classification", "model": model}))
    run(monkeypatch, "describe", str(tmp_path))
    assert "task head" in capsys.readouterr().out


@pytest.mark.parametrize("names", [[], ["unimo.embeddings.token_type_embeddings.weight"], ["something"]])
def test_other_peoples_files_are_refused(tmp_path, names):
    from safetensors.torch import save_file

    save_file({name: torch.zeros(2, 2) for name in names}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError):
        convert_published(tmp_path / "model.safetensors")


def test_a_model_from_roberta_and_vit(tmp_path, monkeypatch, capsys):
    """Then it can be started from, and its tensors are theirs."""
    from transformers import RobertaConfig, RobertaForMaskedLM, ViTConfig, ViTModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    roberta = RobertaForMaskedLM(
        RobertaConfig(**sizes, vocab_size=50265, max_position_embeddings=42, type_vocab_size=1, layer_norm_eps=1e-5)
    )
    roberta.save_pretrained(tmp_path / "roberta")
    vit = ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8), add_pooling_layer=False)
    vit.save_pretrained(tmp_path / "vit")
    options = [word for change in ("dictionary=8", "chosen=4") for word in ("--set", f"model.{change}")]
    towers = ["--roberta", str(tmp_path / "roberta"), "--vit", str(tmp_path / "vit")]
    run(monkeypatch, "init-from-pretrained", str(tmp_path / "out"), *towers, *options)
    told = capsys.readouterr().out
    assert "fresh" in told and "dictionary.entries" in told and "words.word.weight" in told
    model, saved = load_model(tmp_path / "out")
    assert torch.equal(model.words.word.weight, roberta.get_input_embeddings().weight)
    assert saved.state["facts"]["seed"] == 0
    assert (saved.state["settings"]["model"]["patch"], model.words.position.num_embeddings) == (8, 42)
    with pytest.raises(UsageError, match="nothing to start from"):
        init_from_pretrained(tmp_path / "none", ModelSettings(size="tiny"))
    monkeypatch.setattr("unimo.weights.init_from.build", shapes_alone)
    towers = {"roberta": str(tmp_path / "roberta"), "vit": str(tmp_path / "vit")}
    with pytest.raises(UsageError, match="the folder exists"):
        init_from_pretrained(tmp_path / "out", ModelSettings(), **towers)
    for change, field in (
        ("width=64", "hidden_size"),
        ("text_depth=2", "num_hidden_layers"),
        ("patch=16", "patch_siz"),
    ):
        with pytest.raises(WeightsError, match=rf"config\.json, {field}"):  # before anything is built
            init_from_pretrained(tmp_path / "other", ModelSettings(), **towers, assignments=[change])
    with pytest.raises(UsageError, match="image tower"):
        init_from_pretrained(tmp_path / "other", ModelSettings(member="unimo"), **towers)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "unimo-2"
