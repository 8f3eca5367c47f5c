"""Names of our weights in the published archives (spec unimo §9.3, unimo2 §8).

Published linear maps are stored [in, out] and are transposed; queries, keys and values, three maps there, are one here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from unimo.model.unified import Unified
from unimo.model.unimo import UNIMO
from unimo.model.unimo2 import UNIMO2
from unimo.weights.key_map import KeyMap

# What an archive may hold beside a model: the optimizer's state, and heads rebuilt by every fine-tuning.
LEFTOVERS = (
    "_moment1_0", "_moment2_0", "_beta1_pow_acc_0", "_beta2_pow_acc_0", "learning_rate", "@LR_DECAY_COUNTER@",
    "StructuredToParameterName@@",
)  # fmt: skip


def key_maps(model: Unified, *, first_grounded_layer: int = 0) -> dict[str, KeyMap]:
    """Our parameter name -> its source, for every parameter that the published model of this member has too.

    first_grounded_layer: where the Grounded Transformer's layers begin to count; 6 in a 6 + 6 split (spec unimo2 §2.1).
    """
    if isinstance(model, UNIMO2):
        return dict(_unimo2(model, first_grounded_layer))
    assert isinstance(model, UNIMO)
    return dict(_unimo(model))


def is_leftover(name: str) -> bool:
    """Whether a variable of a published archive belongs to its training rather than to its model."""
    return name.endswith(LEFTOVERS)


Named = Iterator[tuple[str, KeyMap]]


def _unimo(model: UNIMO) -> Named:
    yield "words.word.weight", KeyMap(("word_embedding",))
    yield "words.position.weight", KeyMap(("pos_embedding",))
    yield from _norm("words.norm", "pre_encoder")
    yield from _linear("regions.feature", "image_emb")
    yield from _linear("regions.box", "image_loc")
    yield from _norm("regions.norm", "v_pre_encoder")
    yield from _layers("encoder", "", range(len(model.encoder.layers)), "post")
    yield from _linear("text_pooler.linear", "pooled_fc_text")
    yield from _linear("image_pooler.linear", "pooled_fc_image")
    yield from _word_head(model, "")
    if model.words.speaker is not None:
        yield "words.speaker.weight", KeyMap(("role_embedding",))
        yield "words.turn.weight", KeyMap(("turn_embedding",))
    if model.matching is not None:
        # Retrieval's head is known; the pre-training head of archives presumably has UNIMO-2's name (spec §9.3).
        one_score = model.matching.linear.out_features == 1
        yield from _linear("matching.linear", "match_fc" if one_score else "img_text_matching_fc")


def _unimo2(model: UNIMO2, first_layer: int) -> Named:
    yield "patches.projection.weight", KeyMap(("vit.patch_embeddings_projection_weight",))
    yield "patches.projection.bias", KeyMap(("vit.patch_embeddings_projection_bias",))
    yield "patches.cls", KeyMap(("vit.cls_token_embeddings",))
    yield "patches.positions", KeyMap(("vit.position_embeddings",))
    yield from _layers("image_encoder", "vit.", range(len(model.image_encoder.layers)), "pre")
    yield from _norm("image_encoder.final_norm", "vit.post_encoder")
    yield "words.word.weight", KeyMap(("text.word_embedding",))
    yield "words.position.weight", KeyMap(("text.pos_embedding",))
    yield from _norm("words.norm", "text.pre_encoder")
    yield from _layers("text_encoder", "text.", range(len(model.text_encoder.layers)), "post")
    depth = len(model.grounded_encoder.layers)
    yield from _layers("grounded_encoder", "grounded.", range(first_layer, first_layer + depth), "post")
    yield from _linear("text_pooler.linear", "grounded.pooled_fc_text")
    yield from _linear("image_pooler.linear", "grounded.pooled_fc_image")
    yield from _linear("matching.linear", "grounded.img_text_matching_fc")
    yield from _word_head(model, "grounded.")
    yield "contrastive_temperature.value", KeyMap(("cmcl_temperature",))
    for side in model.contrastive_projection:
        yield from _linear(f"contrastive_projection.{side}", f"grounded.cmcl_pooled_fc_{side}")
    if model.dictionary is None:
        return
    yield "dictionary.entries", KeyMap(("vq_emb",))
    yield "dictionary.scale", KeyMap(("topk_temperature",))
    yield from _norm("ground_norm", "grounded.pre_encoder")
    for side, theirs in (("image", "patch"), ("text", "token")):
        if side in model.dictionary.project:
            yield from _linear(f"dictionary.project.{side}", f"grounded.grounding_{theirs}_projection")
    if model.masked_grounding is not None:
        yield from _linear("masked_grounding.transform", "grounded.mask_g_trans_fc")
        yield from _norm("masked_grounding.norm", "grounded.mask_g_trans")
        yield "masked_grounding.bias", KeyMap(("grounded.mask_g_out_fc.b_0",))


def _linear(ours: str, theirs: str) -> Named:
    yield f"{ours}.weight", KeyMap((f"{theirs}.w_0",), transpose=True)
    yield f"{ours}.bias", KeyMap((f"{theirs}.b_0",))


def _norm(ours: str, theirs: str) -> Named:
    yield f"{ours}.weight", KeyMap((f"{theirs}_layer_norm_scale",))
    yield f"{ours}.bias", KeyMap((f"{theirs}_layer_norm_bias",))


def _word_head(model: Unified, prefix: str) -> Named:
    yield from _linear("language_model.transform", f"{prefix}mask_lm_trans_fc")
    yield from _norm("language_model.norm", f"{prefix}mask_lm_trans")
    yield "language_model.bias", KeyMap((f"{prefix}mask_lm_out_fc.b_0",))
    if model.language_model.table is not None:  # weight sharing is off
        yield "language_model.table.weight", KeyMap((f"{prefix}mask_lm_out_fc.w_0",), transpose=True)


def _layers(ours: str, prefix: str, numbers: Iterable[int], norms: str) -> Named:
    """norms: pre or post, where the LayerNorms of a layer stand."""
    for i, number in enumerate(numbers):
        a, b = f"{ours}.layers.{i}", f"{prefix}encoder_layer_{number}"
        parts = [f"{b}_multi_head_att_{part}_fc" for part in ("query", "key", "value")]
        yield f"{a}.attention.qkv.weight", KeyMap(tuple(f"{part}.w_0" for part in parts), transpose=True)
        yield f"{a}.attention.qkv.bias", KeyMap(tuple(f"{part}.b_0" for part in parts))
        yield from _linear(f"{a}.attention.output", f"{b}_multi_head_att_output_fc")
        yield from _norm(f"{a}.attention_norm", f"{b}_{norms}_att")
        yield from _linear(f"{a}.ffn_in", f"{b}_ffn_fc_0")
        yield from _linear(f"{a}.ffn_out", f"{b}_ffn_fc_1")
        yield from _norm(f"{a}.ffn_norm", f"{b}_{norms}_ffn")
