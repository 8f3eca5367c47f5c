"""Our models started from RoBERTa and ViT as Hugging Face stores them (spec unimo §1.10; unimo2 §4.7, §8.5).

    start_from_roberta   words, language model, and the Transformers over words: UNIMO's one, or UNIMO-2's two
    start_from_vit       patches and the image tower of UNIMO-2

A source is a folder with config.json and weights in any form `unimo.weights.files` reads, or a name on the hub.
A configuration our graph cannot express is refused by its field, and every tensor on both sides is accounted for: what
stays as it was initialised is in the report's `missing`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unimo.errors import UsageError, WeightsError
from unimo.json_files import load_json
from unimo.model.build import shapes_only
from unimo.model.embeddings import PatchEmbedding
from unimo.model.transformer import Transformer
from unimo.weights import files as weight_files
from unimo.weights.hub import fetch
from unimo.weights.key_map import OWN_TABLE, KeyMap, LoadReport, convert

# Parts of a layer: ours, and those of theirs that are joined to it.
ROBERTA_LAYER = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "ffn_in": ("intermediate.dense",),
    "ffn_out": ("output.dense",),
    "ffn_norm": ("output.LayerNorm",),
}
VIT_LAYER = ROBERTA_LAYER | {
    "attention.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attention_norm": ("layernorm_before",),
    "ffn_norm": ("layernorm_after",),
}
# transformers 5 writes the hub's names, but a model in its memory has others, which torch.save writes.
VIT_IN_MEMORY = {
    r"^layers\.": "encoder.layer.",
    r"\.attention\.q_proj\.": ".attention.attention.query.",
    r"\.attention\.k_proj\.": ".attention.attention.key.",
    r"\.attention\.v_proj\.": ".attention.attention.value.",
    r"\.attention\.o_proj\.": ".attention.output.dense.",
    r"\.mlp\.fc1\.": ".intermediate.dense.",
    r"\.mlp\.fc2\.": ".output.dense.",
}
# Copies of tensors that also have a name of their own.
ROBERTA_TIED = {
    "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
}
# What their files hold and our models do not: poolers, classifiers, copies, and a buffer that only counts.
VIT_EXTRA = ("pooler.", "classifier.")
ROBERTA_EXTRA = (*VIT_EXTRA, "lm_head.decoder.", "embeddings.position_ids")

CONFIG = "config.json"
DEFAULTS = {  # of fields that older files leave out
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pad_token_id": 1,
    "qkv_bias": True,
}


def start_from_roberta(model: nn.Module, source: str | Path, *, grounded: bool = True) -> LoadReport:
    """Fills words, language model and the Transformers over words with the weights of a RobertaForMaskedLM.

    model: UNIMO or UNIMO-2. grounded: fill UNIMO-2's Grounded Transformer too, with the same layers.
    Raises WeightsError for another architecture or other sizes, and for tensors that are missing or unknown.
    """
    words: Any = model.words
    language_model: Any = model.language_model
    folder, stacks = find(source), _word_stacks(model, grounded)
    rows, their_rows = len(words.position.weight), check_roberta(model, folder, grounded=grounded)

    def with_type(tables: Tensor) -> Tensor:
        """Their position rows with one type row below -> as many as ours, with the type added to each."""
        return tables[:rows].double() + tables[-1].double()

    weights = _weights(folder, "roberta.")
    tables = ("embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight")
    for name, count in zip(tables, (their_rows, 1)):
        _expect_shape(weights, name, (count, words.word.embedding_dim), folder)
    maps = {
        "words.word.weight": KeyMap(("embeddings.word_embeddings.weight",)),
        "words.position.weight": KeyMap(tables, change=with_type),
        "language_model.bias": KeyMap(("lm_head.bias",)),
        **_pair("words.norm", "embeddings.LayerNorm"),
        **_pair("language_model.transform", "lm_head.dense"),
        **_pair("language_model.norm", "lm_head.layer_norm"),
    }
    for name, stack in stacks.items():
        maps |= _layers(name, stack, ROBERTA_LAYER)
    if language_model.table is not None:  # then the decoder is what counts, and no copy of anything
        for ours, (copy, original) in zip((OWN_TABLE, "language_model.bias"), ROBERTA_TIED.items()):
            maps[ours] = KeyMap((copy if copy in weights else original,))
        return _start(model, maps, weights, (*ROBERTA_EXTRA, "lm_head.bias"), folder)
    for copy, original in ROBERTA_TIED.items():
        if copy in weights and not torch.equal(weights[copy], weights.setdefault(original, weights[copy])):
            what, expected = "an output layer of its own", f"a copy of {original}"
            do = "build the model with model.tie_word_embeddings=false"
            raise WeightsError(what, where=f"{folder}, {copy}", expected=expected, do=do)
    return _start(model, maps, weights, ROBERTA_EXTRA, folder)


def _word_stacks(model: nn.Module, grounded: bool) -> dict[str, Any]:
    """The Transformers over words: UNIMO's one, or UNIMO-2's two."""
    names = ["encoder", "text_encoder", *(["grounded_encoder"] if grounded else [])]
    return {name: getattr(model, name) for name in names if hasattr(model, name)}


def check_roberta(model: nn.Module, folder: Path, *, grounded: bool = True) -> int:
    """Refuses a configuration that is not the model's; returns how many positions it has. A model of shapes will do."""
    words: Any = model.words
    language_model: Any = model.language_model
    config = read_config(folder)
    if language_model.hidden_act != "gelu":
        what, got = "RoBERTa's language-model head is gelu, whatever act its layers have", language_model.hidden_act
        do = "build the model with model.hidden_act=gelu, or start it from other weights"
        raise WeightsError(what, where="model.hidden_act", got=got, expected="gelu", do=do)
    fields = {
        "model_type": "roberta",
        "vocab_size": len(words.word.weight),
        "type_vocab_size": 1,
        "pad_token_id": 1,  # positions start after it, at 2
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }
    _expect(config, folder, fields)
    for name, stack in _word_stacks(model, grounded).items():
        _expect(config, folder, _fields(stack), name)
    rows, their_rows = len(words.position.weight), config.get("max_position_embeddings")
    if type(their_rows) is not int or rows > their_rows:
        where, do = f"{folder / CONFIG}, max_position_embeddings", f"build the model with model.positions={their_rows}"
        what = "the model has more positions than the weights"
        raise WeightsError(what, where=where, got=their_rows, expected=f"at least {rows}", do=do)
    return their_rows


def start_from_vit(model: nn.Module, source: str | Path) -> LoadReport:
    """Fills patches and image tower with the weights of a ViT, of whatever image size it was trained with.

    model: UNIMO-2. Its patches are the ViT's own where model.patch_padding is 0. Raises as `start_from_roberta`.
    """
    folder = find(source)
    side = check_vit(model, folder)
    patches: Any = model.patches
    stack: Any = model.image_encoder

    def resized(table: Tensor) -> Tensor:
        """Their (1, 1 + P, D) position table -> ours."""
        with shapes_only():
            theirs = PatchEmbedding(width, side, patches.patch)
        theirs.positions = nn.Parameter(table.float(), requires_grad=False)
        return theirs.position_table(patches.grid)

    weights, positions = _weights(folder, "vit.", VIT_IN_MEMORY), "embeddings.position_embeddings"
    width = patches.cls.shape[-1]
    _expect_shape(weights, positions, (1, 1 + (side // patches.patch) ** 2, width), folder)
    maps = {
        "patches.cls": KeyMap(("embeddings.cls_token",)),
        "patches.positions": KeyMap((positions,), change=resized),
        **_pair("patches.projection", "embeddings.patch_embeddings.projection"),
        **_pair("image_encoder.final_norm", "layernorm"),
        **_layers("image_encoder", stack, VIT_LAYER),
    }
    return _start(model, maps, weights, VIT_EXTRA, folder)


def check_vit(model: nn.Module, folder: Path) -> int:
    """Refuses a configuration that is not the model's; returns the side of its images. A model of shapes will do."""
    if not hasattr(model, "patches"):
        raise UsageError("a model without an image tower", got=type(model).__name__, expected="UNIMO-2")
    patches: Any = model.patches
    stack: Any = model.image_encoder
    config = read_config(folder)
    fields = {"model_type": "vit", "patch_size": patches.patch, "num_channels": 3, "qkv_bias": True}
    _expect(config, folder, fields | _fields(stack))
    side = config.get("image_size")
    if type(side) is not int or side < 1 or side % patches.patch:
        where, expected = f"{folder / CONFIG}, image_size", f"a multiple of {patches.patch}"
        raise WeightsError("images that are no square of patches", where=where, got=side, expected=expected)
    return side


def find(source: str | Path) -> Path:
    """The folder of a source, fetched if it is a name on the hub."""
    # A weight file mistyped is no name to ask the hub for.
    if Path(source).suffix in weight_files.READERS and not Path(source).is_dir():
        raise WeightsError("not a folder", where=source, expected=f"a folder with {CONFIG} and weights")
    for kind in ("model*.safetensors", "pytorch_model*.bin"):  # the second is fetched only where the first is not
        folder = fetch(source, [CONFIG, kind, f"{kind}.index.json"])
        if any(folder.glob(kind)):
            break
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    config = load_json(folder / CONFIG, max_bytes=1 << 20, error=WeightsError)
    if not isinstance(config, dict):
        raise WeightsError("not a configuration", where=folder / CONFIG, got=type(config).__name__)
    return DEFAULTS | config


def _fields(stack: Transformer) -> dict[str, Any]:
    """What a configuration says of a Transformer like this one."""
    first: Any = stack.layers[0]
    return {
        "hidden_act": first.hidden_act,
        "layer_norm_eps": first.ffn_norm.eps,
        "hidden_size": first.ffn_in.in_features,
        "num_attention_heads": first.attention.heads,
        "num_hidden_layers": len(stack.layers),
        "intermediate_size": stack.ffn,
    }


def _expect(config: dict[str, Any], folder: Path, fields: dict[str, Any], part: str = "") -> None:
    """part: of our model, where it matters which."""
    for field, ours in fields.items():
        if config.get(field) != ours:
            where, expected = f"{folder / CONFIG}, {field}", f"{ours}{part and f', as in {part}'}"
            what, do = (
                "the weights are of another kind than the model",
                "choose other weights, or build the model alike",
            )
            do += " (or leave it out: grounded=False)" if part == "grounded_encoder" else ""
            raise WeightsError(what, where=where, got=config.get(field), expected=expected, do=do)


def _expect_shape(weights: dict[str, Tensor], name: str, shape: tuple[int, ...], folder: Path) -> None:
    """A table that is missing is reported by `_start`."""
    if name in weights and (got := tuple(weights[name].shape)) != shape:
        where = f"{folder}, {name}"
        raise WeightsError("a table of another size than configured", where=where, got=got, expected=shape)


def _weights(folder: Path, prefix: str, renamed: dict[str, str] | None = None) -> dict[str, Tensor]:
    """Tensors by the hub's names without the name of their model, which some files carry in front."""
    found: dict[str, Tensor] = {}
    for full, tensor in weight_files.read(folder).items():
        name = full.removeprefix(prefix)
        for theirs, hub in (renamed or {}).items():
            name = re.sub(theirs, hub, name)
        if name in found:
            raise WeightsError("two tensors for one place", where=f"{folder}, {full}", expected=f"one {name}")
        found[name] = tensor
    return found


def _pair(ours: str, *theirs: str) -> dict[str, KeyMap]:
    """Weight and bias."""
    return {f"{ours}.{kind}": KeyMap(tuple(f"{name}.{kind}" for name in theirs)) for kind in ("weight", "bias")}


def _layers(ours: str, stack: Transformer, parts: dict[str, tuple[str, ...]]) -> dict[str, KeyMap]:
    found: dict[str, KeyMap] = {}
    for i in range(len(stack.layers)):
        for part, theirs in parts.items():
            found |= _pair(f"{ours}.layers.{i}.{part}", *(f"encoder.layer.{i}.{name}" for name in theirs))
    return found


def _start(
    model: nn.Module, maps: dict[str, KeyMap], weights: dict[str, Tensor], extra: tuple[str, ...], folder: Path
) -> LoadReport:
    """`convert`, after a look at the names on both sides. extra: how names begin that may be left over."""
    wanted = {name for key_map in maps.values() for name in key_map.names}
    missing = sorted(wanted - set(weights))
    unknown = sorted(name for name in set(weights) - wanted if not name.startswith(extra))
    whole = sorted(name for name in wanted & set(weights) if not weights[name].is_floating_point())
    if missing or unknown or whole:
        got = f"missing {missing[:4]}, unknown {unknown[:4]}, of whole numbers {whole[:4]}"
        expected = f"{len(wanted)} tensors of floating-point numbers"
        raise WeightsError("not the tensors of such a model", where=folder, got=got, expected=expected)
    report = convert(model, maps, weights, where=folder, strict=False)
    if report.misshapen:
        got = "; ".join(report.misshapen[:4])
        raise WeightsError("tensors of another shape than configured", where=folder, got=got)
    return report
