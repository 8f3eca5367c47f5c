"""Published configuration files: what they say is taken, what contradicts the weights is refused by its key."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from weights.test_paddle import variable
from weights.test_pretrained import SETTINGS, lively
from weights.test_published import archive

from unimo import cli
from unimo.errors import WeightsError
from unimo.weights.convert import convert_published
from unimo.weights.loading import load_model
from unimo.weights.published_config import configured

SIZES = {"vocabulary": 40, "width": 64, "heads": 2, "positions": 20, "region_size": 6, "masked_grounding": False}
PUBLISHED = {  # as in the release, with our sizes
    "unimo": {
        "attention_probs_dropout_prob": 0.1, "hidden_act": "relu", "hidden_dropout_prob": 0.2, "hidden_size": 64,
        "initializer_range": 0.02, "max_position_embeddings": 20, "num_attention_heads": 2, "num_hidden_layers": 2,
        "type_vocab_size": 0, "sent_type_vocab_size": 0, "task_type_vocab_size": 0, "vocab_size": 40, "max_img_len": 37,
        "image_embedding_size": 6, "image_class_size": 1601, "fusion_method": "mul", "txt_mask_ratio": 0.15,
    },
    "unimo-2": {
        "hidden_act": "relu", "text_hidden_act": "relu", "vit_hidden_act": "relu", "hidden_size": 64,
        "text_hidden_size": 64, "vit_hidden_size": 64, "num_attention_heads": 2, "text_num_attention_heads": 2,
        "vit_num_attention_heads": 2, "num_hidden_layers": 2, "text_num_hidden_layers": 2, "vit_num_hidden_layers": 2,
        "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1, "vit_hidden_dropout_prob": 0.0,
        "text_vocab_size": 40, "text_max_position_embeddings": 20, "vit_layer_norm_eps": 1e-12, "type_vocab_size": 0,
        "resolution": 8, "image_size": 16, "fusion_method": "mul", "num_labels": 2,
    },
}  # fmt: skip


def written(folder, member):
    """A published folder of a model with relu, and the model."""
    options = {"image_contrastive": False, "region_heads": False, "hidden_act": "relu"}
    model = lively(replace(SETTINGS[member], **SIZES, **options))
    folder.mkdir(parents=True)
    for name, tensor in archive(model).items():
        (folder / name).write_bytes(variable(np.ascontiguousarray(tensor.numpy())))
    return model


@pytest.mark.parametrize("place", ["in the folder", "config/NAME.json", "named"])
@pytest.mark.parametrize("member", ["unimo", "unimo-2"])
def test_what_it_says_is_taken_and_told(tmp_path, monkeypatch, capsys, member, place):
    source = tmp_path / "weights_en"
    written(source, member)
    (tmp_path / "config").mkdir()
    where = {
        "in the folder": source / "any.json",
        "config/NAME.json": tmp_path / "config" / "weights_en.json",
        "named": tmp_path / "elsewhere.json",
    }[place]
    where.write_text(json.dumps(PUBLISHED[member]))
    arguments = ["unimo", "convert", str(source), str(tmp_path / "out"), "--set", "model.chosen=4"]
    monkeypatch.setattr(sys, "argv", [*arguments, *(["--config", str(where)] if place == "named" else [])])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().out
    assert ended.value.code in (0, None) and where.name in told
    assert ("num_labels" if member == "unimo-2" else "max_img_len") in told  # passed over, and said so
    model, saved = load_model(tmp_path / "out")
    settings = saved.state["settings"]["model"]
    assert (settings["hidden_act"], settings["heads"], settings["dropout"]) == ("relu", 2, 0.2)
    assert model.fuser.layers[0].hidden_act == "relu" == model.language_model.hidden_act


def test_without_one_the_published_head_size_and_gelu_hold(tmp_path):
    written(tmp_path / "w", "unimo")
    settings = convert_published(tmp_path / "w").settings
    assert (settings.heads, settings.hidden_act) == (1, "gelu")


def test_other_json_files_beside_the_weights_are_no_configuration(tmp_path):
    written(tmp_path / "w", "unimo")
    (tmp_path / "w" / "model.index.json").write_text(json.dumps({"weight_map": {}}))
    (tmp_path / "w" / "tokenizer.json").write_text("[]")
    converted = convert_published(tmp_path / "w")
    assert converted.settings.hidden_act == "gelu" and not converted.notes
    (tmp_path / "w" / "z.json").write_text(json.dumps(PUBLISHED["unimo"]))
    assert convert_published(tmp_path / "w").settings.hidden_act == "relu"
    (tmp_path / "w" / "z.json").write_text("{")
    with pytest.raises(WeightsError, match=r"z\.json"):
        convert_published(tmp_path / "w")


def test_two_that_could_be_meant_are_refused(tmp_path):
    written(tmp_path / "w", "unimo")
    for name in ("a.json", "b.json"):
        (tmp_path / "w" / name).write_text(json.dumps(PUBLISHED["unimo"]))
    with pytest.raises(WeightsError, match=r"several configurations.*--config"):
        convert_published(tmp_path / "w")
    assert convert_published(tmp_path / "w", config=tmp_path / "w" / "a.json").settings.heads == 2


WRONG = [
    ("unimo", "hidden_act", "tanh"), ("unimo", "hidden_act", 3), ("unimo", "hidden_act", None),
    ("unimo", "num_attention_heads", 0), ("unimo", "num_attention_heads", "2"), ("unimo", "num_attention_heads", True),
    ("unimo", "hidden_dropout_prob", 5), ("unimo", "hidden_dropout_prob", -0.1), ("unimo", "initializer_range", []),
    ("unimo", "hidden_size", 2**20), ("unimo", "vocab_size", 10**9), ("unimo", "num_hidden_layers", 10**6),
    ("unimo", "max_position_embeddings", 514), ("unimo", "image_embedding_size", 2048), ("unimo", "emb_size", 32),
    ("unimo", "type_vocab_size", 4), ("unimo", "fusion_method", "concat"), ("unimo", "vocab_size", 40.5),
    ("unimo-2", "text_hidden_act", "gelu"), ("unimo-2", "vit_num_attention_heads", 4),
    ("unimo-2", "vit_layer_norm_eps", 1e-5), ("unimo-2", "resolution", 16), ("unimo-2", "text_vocab_size", 41),
    ("unimo-2", "vit_num_hidden_layers", 12), ("unimo-2", "text_hidden_dropout_prob", 0.1),
]  # fmt: skip


@pytest.mark.parametrize("member, key, value", WRONG)
def test_what_cannot_be_or_does_not_fit_is_refused_by_its_key(tmp_path, member, key, value):
    settings = replace(SETTINGS[member], **SIZES)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**PUBLISHED[member], key: value}))
    with pytest.raises(WeightsError) as caught:
        configured(settings, path)
    assert str(caught.value.where).endswith(f", {key}") and str(path) in str(caught.value.where)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"hidden_act": "relu", "hidden_act": "gelu"}', "NaN"])
def test_what_is_no_configuration_is_refused(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(WeightsError, match=r"c\.json"):
        configured(SETTINGS["unimo"], tmp_path / "c.json")
