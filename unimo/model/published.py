"""Where each of our UNIMO-2 weights comes from in the published archives (spec unimo2 §8).

Published linear maps are stored [in, out] and are turned; queries, keys and values, three maps there, are one here.
"""

from __future__ import annotations

from unimo.model.conversion import Origin
from unimo.model.unimo2 import UNIMO2


def origins(model: UNIMO2) -> dict[str, Origin]:
    """Our parameter name -> its origin, for every parameter that the published model has too."""
    as_is = {
        "patches.projection.weight": "vit.patch_embeddings_projection_weight",
        "patches.projection.bias": "vit.patch_embeddings_projection_bias",
        "patches.cls": "vit.cls_token_embeddings",
        "patches.positions": "vit.position_embeddings",
        "words.word.weight": "text.word_embedding",
        "words.position.weight": "text.pos_embedding",
        "language_model.bias": "grounded.mask_lm_out_fc.b_0",
        "contrastive_temperature.value": "cmcl_temperature",
    }
    linear = {
        "text_pooler.linear": "grounded.pooled_fc_text",
        "image_pooler.linear": "grounded.pooled_fc_image",
        "matching.linear": "grounded.img_text_matching_fc",
        "language_model.transform": "grounded.mask_lm_trans_fc",
    }
    norm = {
        "image_encoder.final_norm": "vit.post_encoder",
        "words.norm": "text.pre_encoder",
        "language_model.norm": "grounded.mask_lm_trans",
    }
    if model.dictionary is not None:
        as_is |= {"dictionary.entries": "vq_emb", "dictionary.scale": "topk_temperature"}
        norm["ground_norm"] = "grounded.pre_encoder"
    found = {}
    for ours, theirs, place in (("image", "vit", "pre"), ("text", "text", "post"), ("grounded", "grounded", "post")):
        for i in range(len(getattr(model, f"{ours}_encoder").layers)):
            a, b = f"{ours}_encoder.layers.{i}", f"{theirs}.encoder_layer_{i}"
            parts = [f"{b}_multi_head_att_{part}_fc" for part in ("query", "key", "value")]
            found[f"{a}.attention.qkv.weight"] = Origin(tuple(f"{part}.w_0" for part in parts), turned=True)
            found[f"{a}.attention.qkv.bias"] = Origin(tuple(f"{part}.b_0" for part in parts))
            linear[f"{a}.attention.output"] = f"{b}_multi_head_att_output_fc"
            linear[f"{a}.ffn_in"], linear[f"{a}.ffn_out"] = f"{b}_ffn_fc_0", f"{b}_ffn_fc_1"
            norm[f"{a}.attention_norm"], norm[f"{a}.ffn_norm"] = f"{b}_{place}_att", f"{b}_{place}_ffn"
    found |= {ours: Origin((theirs,)) for ours, theirs in as_is.items()}
    for ours, theirs in linear.items():
        found[f"{ours}.weight"], found[f"{ours}.bias"] = (
            Origin((f"{theirs}.w_0",), turned=True),
            Origin((f"{theirs}.b_0",)),
        )
    for ours, theirs in norm.items():
        found[f"{ours}.weight"] = Origin((f"{theirs}_layer_norm_scale",))
        found[f"{ours}.bias"] = Origin((f"{theirs}_layer_norm_bias",))
    return found
