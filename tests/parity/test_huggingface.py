"""Our models started from RoBERTa and ViT against `transformers` running the same weights: random, tiny, float32.

Texts are ragged: theirs padded and masked, ours packed. Biases, LayerNorms and the type row are random too, so that
nothing can be left out unseen.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from unimo.batch import TEXT, Batch, Texts
from unimo.errors import UnimoError, UsageError, WeightsError
from unimo.model.unimo import UNIMO
from unimo.model.unimo2 import UNIMO2, Request
from unimo.weights.huggingface import start_from_roberta, start_from_vit

transformers = pytest.importorskip("transformers")

WIDTH, HEADS, DEPTH, FFN, VOCABULARY, ROWS, SIDE, PATCH = 24, 3, 2, 40, 61, 40, 24, 4
PAD = 1
LENGTHS = [9, 2, 30, 17]


def enlivened(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def roberta(**changes):
    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": DEPTH, "intermediate_size": FFN}
    rest = {"vocab_size": VOCABULARY, "max_position_embeddings": ROWS, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    return enlivened(transformers.RobertaForMaskedLM(transformers.RobertaConfig(**{**sizes, **rest, **changes})))


def vit(kind=transformers.ViTModel, **changes):
    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": DEPTH, "intermediate_size": FFN}
    return enlivened(kind(transformers.ViTConfig(**{**sizes, "image_size": SIDE, "patch_size": PATCH, **changes})))


def unimo2(**changes) -> UNIMO2:
    torch.manual_seed(0)
    sizes = {"width": WIDTH, "heads": HEADS, "image_depth": DEPTH, "text_depth": DEPTH, "grounded_depth": DEPTH}
    rest = {"ffn": FFN, "image_size": SIDE, "patch": PATCH, "vocabulary": VOCABULARY, "positions": ROWS}
    return UNIMO2(**{**sizes, **rest, "dictionary": 8, "chosen": 3, **changes}).eval()


def unimo(**changes) -> UNIMO:
    torch.manual_seed(0)
    sizes = {"width": WIDTH, "heads": HEADS, "depth": DEPTH, "ffn": FFN}
    rest = {"vocabulary": VOCABULARY, "positions": ROWS, "region_size": 7, "region_classes": 5}
    return UNIMO(**{**sizes, **rest, **changes}).eval()


@pytest.fixture(scope="module")
def robertas(tmp_path_factory) -> Path:
    """One RoBERTa, in every form its files come in."""
    folder, model = tmp_path_factory.mktemp("roberta"), roberta()
    model.save_pretrained(folder / "safetensors")
    model.save_pretrained(folder / "shards", max_shard_size="20KB")
    assert (folder / "shards" / "model.safetensors.index.json").exists()
    for form, weights in {
        "bin": dict(model.state_dict()),  # with the tied copies, as the hub's older files
        "no_prefix": {name.removeprefix("roberta."): tensor for name, tensor in model.state_dict().items()},
        "hub": {
            **{name: tensor for name, tensor in model.state_dict().items() if ".decoder." not in name},
            "roberta.embeddings.position_ids": torch.arange(ROWS)[None],
            "roberta.pooler.dense.weight": torch.ones(WIDTH, WIDTH),
            "roberta.pooler.dense.bias": torch.ones(WIDTH),
        },
        "only_copies": {
            name: tensor
            for name, tensor in model.state_dict().items()
            if name not in ("lm_head.bias", "roberta.embeddings.word_embeddings.weight")
        },
    }.items():
        write(folder / form, model.config, weights)
    return folder


@pytest.fixture(scope="module")
def vits(tmp_path_factory) -> Path:
    """One ViT, in every form its files come in."""
    folder, model = tmp_path_factory.mktemp("vit"), vit()
    model.save_pretrained(folder / "safetensors")
    hub = safetensors.torch.load_file(folder / "safetensors" / "model.safetensors")
    assert "encoder.layer.0.attention.attention.query.weight" in hub
    classifier = {"classifier.weight": torch.ones(3, WIDTH), "classifier.bias": torch.ones(3)}
    write(folder / "no_prefix", model.config, hub)
    body = {f"vit.{name}": tensor for name, tensor in hub.items() if not name.startswith("pooler")}
    write(folder / "hub", model.config, body | classifier)
    write(folder / "in_memory", model.config, model.state_dict())
    return folder


def write(folder: Path, config, weights: dict[str, Tensor]) -> Path:
    """A folder as the hub's older ones are."""
    folder.mkdir(parents=True)
    torch.save(dict(weights), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(config.to_json_string(use_diff=False))
    return folder


def rows(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (n,), generator=generator) for n in LENGTHS]


def packed(texts: list[Tensor]) -> Texts:
    ids = torch.cat(texts)
    positions = torch.cat([2 + torch.arange(len(text)) for text in texts])
    offsets = torch.tensor([0, *map(len, texts)]).cumsum(0)
    return Texts(ids, positions, torch.full_like(ids, TEXT), offsets)


def padded(texts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """ids (M, L) and attention mask."""
    ids = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=PAD)
    return ids, (ids != PAD).long()


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape and theirs.abs().max() > 0.5
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * max(1.0, float(theirs.abs().max())))


def their_words(model) -> tuple[Tensor, Tensor]:
    """States and logits of every real token, one after the other: (T, D), (T, V)."""
    ids, mask = padded(rows())
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    return out.hidden_states[-1][mask.bool()], out.logits[mask.bool()]


def images(side: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8, generator=generator)


def their_patches(model, side: int) -> Tensor:
    pixels = (images(side) / 255 - 0.5) / 0.5
    with torch.no_grad():
        return model(pixel_values=pixels, interpolate_pos_encoding=side != model.config.image_size).last_hidden_state


# ---- parity ----


@pytest.mark.parametrize("form", ["safetensors", "shards", "bin", "no_prefix", "hub", "only_copies"])
def test_unimo2_reads_as_roberta(robertas, form):
    model = unimo2()
    start_from_roberta(model, robertas / form)
    hidden, logits = their_words(roberta())
    with torch.no_grad():
        ours = model.encode_texts(packed(rows()))
        close(ours, hidden)
        close(model.word_logits(ours), logits)


def test_the_grounded_transformer_starts_as_roberta_too(robertas):
    model, other, fresh = unimo2(), unimo2(), unimo2()
    report = start_from_roberta(model, robertas / "safetensors")
    start_from_roberta(other, robertas / "safetensors", grounded=False)
    for one, text, left, new in zip(
        *(m.parameters() for m in (model.grounded_encoder, model.text_encoder, other.grounded_encoder)),
        fresh.grounded_encoder.parameters(),
    ):
        assert torch.equal(one, text) and not torch.equal(one, new) and torch.equal(left, new)
    assert not report.extra and not report.misshapen
    filled = {name for name, _ in model.named_parameters()} - set(report.missing)
    kept = ("words.", "text_encoder.", "grounded_encoder.", "language_model.")
    assert filled == {name for name, _ in model.named_parameters() if name.startswith(kept)} == set(report.loaded)


def test_unimo_reads_as_roberta(robertas):
    model = unimo()
    report = start_from_roberta(model, robertas / "safetensors")
    texts, (hidden, logits) = packed(rows()), their_words(roberta())
    with torch.no_grad():
        towers = model.towers(Batch(0, torch.zeros(0, 3, 1, 1, dtype=torch.uint8), texts, {}, {}, {}))
        ours = model.fuse(towers, {"all": Request(None, torch.arange(len(texts)))})["all"].hidden
        close(ours, hidden)
        close(model.word_logits(ours), logits)
    assert {name.split(".")[0] for name in report.missing} == {"regions", "text_pooler", "image_pooler"}


@pytest.mark.parametrize("form", ["safetensors", "no_prefix", "hub", "in_memory"])
def test_unimo2_sees_as_vit(vits, form):
    model = unimo2()
    report = start_from_vit(model, vits / form)
    with torch.no_grad():
        close(model.encode_images(images(SIDE)), their_patches(vit(), SIDE))
    kept = ("patches.", "image_encoder.")
    assert set(report.loaded) == {name for name, _ in model.named_parameters() if name.startswith(kept)}
    assert {name.split(".")[0] for name in report.extra} <= {"pooler", "classifier"}


@pytest.mark.parametrize("side", [12, 32])
def test_positions_are_resized_as_theirs(vits, side):
    """Either once, for a model of another size, or in the graph, for images of another size."""
    once, in_graph = unimo2(image_size=side), unimo2()
    start_from_vit(once, vits / "safetensors")
    start_from_vit(in_graph, vits / "safetensors")
    theirs = their_patches(vit(), side)
    with torch.no_grad():
        close(once.encode_images(images(side)), theirs)
        close(in_graph.encode_images(images(side)), theirs)


def test_fewer_positions_than_theirs(robertas):
    model = unimo2(positions=max(LENGTHS) + 2)
    start_from_roberta(model, robertas / "safetensors")
    with torch.no_grad():
        close(model.encode_texts(packed(rows())), their_words(roberta())[0])


def test_half_precision_files(tmp_path):
    theirs = roberta().to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    model = unimo2()
    start_from_roberta(model, tmp_path)
    with torch.no_grad():
        close(model.encode_texts(packed(rows())), their_words(theirs.float())[0])


def test_loading_draws_no_random_numbers(vits, robertas):
    model = unimo2(image_size=32)
    state = torch.random.get_rng_state()
    start_from_vit(model, vits / "safetensors")
    start_from_roberta(model, robertas / "safetensors")
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_comparison_can_fail(robertas):
    """Without the type row ours is not theirs."""
    model = unimo2()
    start_from_roberta(model, robertas / "safetensors")
    types = roberta().roberta.embeddings.token_type_embeddings.weight
    with torch.no_grad():
        model.words.position.weight -= types
        with pytest.raises(AssertionError):
            close(model.encode_texts(packed(rows())), their_words(roberta())[0])


# ---- refusals ----


def refused(start, model, folder, *named: str) -> WeightsError:
    """Refused in a located way that names these, with nothing filled."""
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(WeightsError) as caught:
        start(model, folder)
    told = " ".join(caught.value.parts().values())
    assert str(folder) in told
    for name in named:
        assert name in told, told
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    return caught.value


def reconfigured(source: Path, folder: Path, **fields) -> Path:
    """The same weights with a configuration that says something else; None leaves a field out."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | fields
    said = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "bert"),
        ("hidden_act", "gelu_new"),
        ("hidden_act", "relu"),
        ("position_embedding_type", "relative_key"),
        ("layer_norm_eps", 1e-12),
        ("hidden_size", 32),
        ("num_attention_heads", 4),
        ("num_hidden_layers", 3),
        ("intermediate_size", 96),
        ("vocab_size", 62),
        ("type_vocab_size", 2),
        ("pad_token_id", 0),
        ("is_decoder", True),
        ("max_position_embeddings", ROWS - 1),
        ("max_position_embeddings", str(ROWS)),
        ("hidden_act", None),
        ("model_type", None),
        ("max_position_embeddings", None),
    ],
)
def test_a_roberta_that_is_none_of_ours(robertas, tmp_path, field, value):
    folder = reconfigured(robertas / "safetensors", tmp_path / "w", **{field: value})
    refused(start_from_roberta, unimo2(), folder, field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "deit"),
        ("hidden_act", "quick_gelu"),
        ("layer_norm_eps", 1e-5),
        ("hidden_size", 32),
        ("num_attention_heads", 4),
        ("num_hidden_layers", 1),
        ("intermediate_size", 96),
        ("patch_size", 8),
        ("num_channels", 1),
        ("qkv_bias", False),
        ("image_size", [24, 24]),
        ("image_size", 26),
        ("image_size", 0),
        ("image_size", None),
    ],
)
def test_a_vit_that_is_none_of_ours(vits, tmp_path, field, value):
    folder = reconfigured(vits / "safetensors", tmp_path / "w", **{field: value})
    refused(start_from_vit, unimo2(), folder, field)


def test_fields_that_older_configurations_leave_out(robertas, vits, tmp_path):
    young = {"position_embedding_type": None, "is_decoder": None, "add_cross_attention": None, "pad_token_id": None}
    start_from_roberta(unimo2(), reconfigured(robertas / "safetensors", tmp_path / "r", **young))
    start_from_vit(unimo2(), reconfigured(vits / "safetensors", tmp_path / "v", qkv_bias=None))


def test_more_positions_than_theirs_are_refused_with_what_to_set(robertas):
    error = refused(start_from_roberta, unimo2(positions=ROWS + 1), robertas / "safetensors")
    assert f"model.positions={ROWS}" in error.do


def test_a_grounded_transformer_of_another_depth(robertas):
    error = refused(start_from_roberta, unimo2(grounded_depth=1), robertas / "safetensors", "num_hidden_layers")
    assert "grounded=False" in error.do
    start_from_roberta(unimo2(grounded_depth=1), robertas / "safetensors", grounded=False)


def changed(source: Path, folder: Path, change) -> Path:
    """The same configuration with other tensors."""
    weights = torch.load(source / "pytorch_model.bin", weights_only=True)
    change(weights)
    folder.mkdir()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "config.json").write_text((source / "config.json").read_text())
    return folder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: w.pop("lm_head.dense.bias"), "lm_head.dense.bias"),
        (lambda w: [w.pop(name) for name in list(w) if name.startswith("lm_head")], "lm_head.bias"),
        (lambda w: w.pop("roberta.embeddings.token_type_embeddings.weight"), "token_type_embeddings"),
        (lambda w: w.update(adapter=torch.ones(2)), "adapter"),
        (lambda w: w.update({"embeddings.LayerNorm.bias": torch.ones(WIDTH)}), "embeddings.LayerNorm.bias"),
        (lambda w: w.update({"lm_head.decoder.weight": torch.ones(VOCABULARY, WIDTH)}), "lm_head.decoder.weight"),
        (lambda w: w.update({"lm_head.decoder.bias": torch.ones(VOCABULARY)}), "lm_head.decoder.bias"),
        (lambda w: w["lm_head.dense.weight"].fill_(float("nan")), "lm_head.dense.weight"),
        (
            lambda w: w.update({"lm_head.dense.weight": torch.ones(WIDTH, WIDTH, dtype=torch.int8)}),
            "lm_head.dense.weight",
        ),
        (
            lambda w: w.update({"roberta.embeddings.position_embeddings.weight": torch.ones(ROWS - 1, WIDTH)}),
            "position_embeddings",
        ),
        (
            lambda w: w.update({"roberta.embeddings.token_type_embeddings.weight": torch.ones(2, WIDTH)}),
            "token_type_embeddings",
        ),
    ],
)
def test_tensors_that_are_not_as_configured(robertas, tmp_path, change, named):
    refused(start_from_roberta, unimo2(), changed(robertas / "bin", tmp_path / "w", change), named)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lm_head.bias", (VOCABULARY - 1,)),
        ("roberta.encoder.layer.1.attention.self.key.weight", (WIDTH, WIDTH + 1)),
        ("roberta.encoder.layer.0.attention.self.key.bias", ()),
    ],
)
def test_shapes_that_are_not_as_configured(robertas, tmp_path, name, shape):
    def change(weights):
        weights[name] = torch.ones(shape)
        weights.pop("lm_head.decoder.bias")

    with pytest.raises(WeightsError, match="another shape") as caught:
        start_from_roberta(unimo2(), changed(robertas / "bin", tmp_path / "w", change))
    assert str(tmp_path) in str(caught.value.where) and str(shape) in str(caught.value.got)


def test_a_position_table_that_is_not_as_configured(vits, tmp_path):
    def change(weights):
        weights["vit.embeddings.position_embeddings"] = torch.ones(1, 17, WIDTH)

    refused(start_from_vit, unimo2(), changed(vits / "hub", tmp_path / "w", change), "position_embeddings")


def test_unimo_has_no_image_tower(vits):
    with pytest.raises(UsageError, match="image tower"):
        start_from_vit(unimo(), vits / "safetensors")


def test_folders_without_a_configuration(robertas, tmp_path):
    refused(start_from_roberta, unimo2(), tmp_path, "config.json")
    (tmp_path / "config.json").write_text("[]")
    refused(start_from_roberta, unimo2(), tmp_path, "config.json")


# ---- the hub ----


def hub(tmp_path: Path, monkeypatch, files: dict[str, Path]) -> list[tuple[str, list[str]]]:
    """A hub with these files, laid into its cache as the real one does -> what is asked of it."""
    asked: list[tuple[str, list[str]]] = []
    cache = tmp_path / "models--some--one"
    snapshot = cache / "snapshots" / "0a1b"

    def snapshot_download(name, allow_patterns, **_):
        asked.append((name, allow_patterns))
        (cache / "blobs").mkdir(parents=True, exist_ok=True)
        snapshot.mkdir(parents=True, exist_ok=True)
        for number, (file, path) in enumerate(files.items()):
            if not (snapshot / file).exists() and any(Path(file).match(pattern) for pattern in allow_patterns):
                (cache / "blobs" / str(number)).write_bytes(path.read_bytes())
                (snapshot / file).symlink_to(f"../../blobs/{number}")
        return str(snapshot)

    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked


@pytest.mark.parametrize("form", ["safetensors", "shards", "hub"])
def test_a_name_on_the_hub(robertas, tmp_path, monkeypatch, form):
    files = {path.name: path for path in (robertas / form).iterdir()}
    asked = hub(tmp_path, monkeypatch, {**files, "tf_model.h5": robertas / form / "config.json"})
    model, same = unimo2(), unimo2()
    start_from_roberta(model, "some/one")
    start_from_roberta(same, robertas / form)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters()))
    assert {name for name, _ in asked} == {"some/one"} and not list(tmp_path.rglob("tf_model.h5"))
    assert len(asked) == (2 if form == "hub" else 1)  # torch files only where there are no safetensors


@pytest.mark.parametrize(
    "source",
    [Path("roberta-base"), "./roberta-base", "/nowhere/roberta", "a/b/c", "weights.safetensors", "..", "", "a/../b"],
)
def test_what_is_no_name_is_never_asked_for(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    asked = hub(tmp_path, monkeypatch, {})
    with pytest.raises(UnimoError):
        start_from_roberta(unimo2(), source)
    assert not asked


def test_the_real_hub_client_offline():
    """The whole test run is offline: a name that is in no cache is refused, with the way out."""
    pytest.importorskip("huggingface_hub")
    with pytest.raises(WeightsError) as caught:
        start_from_roberta(unimo2(), "nobody/has-this")
    assert "folder" in caught.value.do and caught.value.where == "nobody/has-this"


def test_without_the_hub_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match="huggingface_hub") as caught:
        start_from_roberta(unimo2(), "roberta-base")
    assert "folder" in caught.value.do
