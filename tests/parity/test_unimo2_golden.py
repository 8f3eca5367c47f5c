"""UNIMO-2 against numbers from the authors' published graph (random weights, float32, no dropout).

The fixtures' texts are padded to one length; our packed rows hold no padding. So there are two comparisons:

    packed   texts without their padding. Towers, images, captions, the baseline and the pair that was full
             length anyway must agree. (Elsewhere published padding votes, and ours does not exist.)
    padded   the published treatment (`pad_texts`, `Released`): padding sees nothing and is seen by nobody, but votes
             (spec unimo2, correction V1). Then everything must agree: votes, codes, fused states, heads, losses,
             gradients.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from parity.golden_files import close, real_tokens, same_gradients, scenario
from torch import Tensor

from unimo import distributed
from unimo.batch import KNOWN, TEXT, WRITTEN, Batch, Targets, Texts
from unimo.decoding.decoder import pad_texts
from unimo.errors import WeightsError
from unimo.model.grounding import DICTIONARY_WEIGHT, ENCODER_WEIGHT
from unimo.model.unified import Request
from unimo.model.unimo2 import UNIMO2, Released
from unimo.objectives.circle_loss import two_sided
from unimo.objectives.cross_modal_contrastive import contrastive
from unimo.objectives.grounded_dictionary import GroundedDictionaryLoss, voting_positions
from unimo.objectives.objective import predict_words
from unimo.weights.key_map import convert
from unimo.weights.published_names import key_maps

WIDTH, PATCH = 32, 4
PAD = 1


@pytest.fixture(scope="module")
def golden(golden: Path) -> Path:
    return golden / "unimo2"


def published_model(golden: Path, *, dictionary: int = 50, released: bool = False) -> UNIMO2:
    """Our model with the fixtures' weights; with every slip of the published graph, or none."""
    config = json.loads((golden / "params.json").read_text())["config"]
    model = UNIMO2(
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        image_depth=config["vit_num_hidden_layers"],
        text_depth=config["text_num_hidden_layers"],
        grounded_depth=config["num_hidden_layers"],
        image_size=config["image_size"],
        patch=config["resolution"],
        patch_padding=(config["resolution"] - 1) // 2,
        vocabulary=config["text_vocab_size"],
        positions=config["max_position_embeddings"],
        dictionary=dictionary,
        chosen=5,
        image_contrastive=False,
        released=Released(*[released] * len(fields(Released))),
    ).eval()
    report = convert(model, key_maps(model), scenario(golden, "params"), where="golden", strict=False)
    assert not report.missing and not report.misshapen
    return model


def pixels_of(x: dict[str, Tensor]) -> Tensor:
    return x["in.pixels_u8"].permute(0, 3, 1, 2).contiguous()


def texts_of(x: dict[str, Tensor], *, padded: bool) -> tuple[Texts, Tensor]:
    """The fixture's texts packed, and (B, L) which of its tokens are real."""
    ids, positions, real = x["in.src_ids"][..., 0], x["in.pos_ids"][..., 0], real_tokens(x["in.text_mask"])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), real.sum(1).cumsum(0)])
    texts = Texts(ids[real], positions[real], torch.full_like(ids[real], TEXT), offsets)
    return (pad_texts(texts, PAD)[0] if padded else texts), real


def as_batch(x: dict[str, Tensor], *, padded: bool, images: bool = True) -> tuple[Batch, Tensor]:
    texts, real = texts_of(x, padded=padded)
    pixels = pixels_of(x) if images else torch.zeros(0, 3, 56, 56, dtype=torch.uint8)
    return Batch(0, pixels, texts, {}, {}, {}), real


def vq_loss(parts: dict) -> Tensor:
    assert {part.weight for part in parts.values()} == {DICTIONARY_WEIGHT, ENCODER_WEIGHT}
    return sum(part.weight * part.total / part.count for part in parts.values())


def split(model: UNIMO2, fused, words: int, images: int = 197) -> tuple[Tensor, Tensor, Tensor]:
    """Fused sequences of equal lengths as V', G', L'."""
    chosen = model.dictionary.chosen if model.dictionary is not None else 0
    rows = fused.hidden.unflatten(0, (len(fused.request), images + chosen + words))
    return rows[:, :images], rows[:, images : images + chosen], rows[:, images + chosen :]


# ---- weights ----


def test_every_published_parameter_has_exactly_one_place(golden):
    weights = scenario(golden, "params")
    report = convert(published_model(golden), key_maps(published_model(golden)), weights, where="golden", strict=False)
    assert report.extra == ["cls_out_b", "cls_out_w"]  # the classification head of a later task
    assert not report.missing and not report.misshapen
    taken = [name for origin in key_maps(published_model(golden)).values() for name in origin.names]
    assert len(set(taken)) == len(taken) == len(weights) - 2
    with pytest.raises(WeightsError, match="cls_out_b"):
        convert(published_model(golden), key_maps(published_model(golden)), weights, where="golden")


# ---- packed: no padding anywhere ----


@torch.no_grad()
def test_towers_of_packed_texts(golden):
    x = scenario(golden, "pair")
    model = published_model(golden)
    batch, real = as_batch(x, padded=False)
    assert real.sum(1).tolist() == [9, 6, 4]  # ragged indeed
    towers = model.towers(batch)
    close(model.words(batch.texts.ids, batch.texts.positions), x["mid.embed.text.pre_encoder"][real])
    close(towers.images, x["out.vit_out"])
    close(towers.words, x["out.text_out"][real])
    everyone = torch.arange(3)
    score = (F.normalize(towers.image_cls(everyone), dim=-1) * towers.text_cls(everyone)).sum(-1)
    close(score[:, None], x["out.cmcl_score"])


@torch.no_grad()
def test_a_full_length_pair_packed_with_shorter_ones(golden):
    x = scenario(golden, "pair")
    model = published_model(golden)
    towers = model.towers(as_batch(x, padded=False)[0])
    fused = model.fuse(towers, {"all": Request(torch.arange(3), torch.arange(3))})["all"]
    assert fused.codes[0].tolist() == x["out.grounded_indices"][0].tolist()
    first = fused.hidden[: 197 + 5 + 9]
    close(first, torch.cat([x["out.fused_image"][0], x["out.fused_grounded"][0], x["out.fused_text"][0]]))
    close(model.match_logits(fused)[0], x["out.itm_logits"][0])


def test_image_only(golden):
    x = scenario(golden, "image_only")
    model = published_model(golden)
    nothing = torch.zeros(0, dtype=torch.int64)
    texts = Texts(nothing, nothing, nothing, torch.zeros(1, dtype=torch.int64))
    towers = model.towers(Batch(0, pixels_of(x), texts, {}, {}, {}))
    fused = model.fuse(towers, {"image_contrastive": Request(torch.arange(3), None)})
    one = fused["image_contrastive"]
    assert one.codes.tolist() == x["out.grounded_indices"].tolist()
    image, ground, _ = split(model, one, 0)
    close(image, x["out.fused_image"])
    close(ground, x["out.fused_grounded"])
    close(one.ground(), x["out.fused_grounded"])
    close(model.image_pooler(one.image_cls()), x["out.pooled_image"])
    loss = vq_loss(GroundedDictionaryLoss().loss(model, None, towers, fused))
    close(loss, x["out.vq_loss"])
    same_gradients(model, loss, x, "grad.vq_loss.")


@pytest.mark.parametrize("kind", ["grounded", "baseline"])
def test_captions_after_tags(golden, kind):
    """Tags are KNOWN, the caption is WRITTEN. In the published graph only patches choose the entries."""
    x = scenario(golden, "caption_loss")
    model = published_model(golden, dictionary=50 if kind == "grounded" else 0, released=True)
    texts, real = texts_of(x, padded=False)
    roles = torch.where(x["in.text_mask"][:, 0].bool(), KNOWN, WRITTEN)[real]  # the first tag sees the tags alone
    texts = Texts(texts.ids, texts.positions, roles, texts.offsets)
    towers = model.towers(Batch(0, pixels_of(x), texts, {}, {}, {}))
    if kind == "grounded":
        close(towers.image_votes, x["mid.grounding.scores"])
        assert towers.text_votes.any()  # which nobody counts
    fused = model.fuse(towers, {"write": Request(torch.arange(2), torch.arange(2))})["write"]
    packed = torch.full(real.shape, -1).masked_scatter(real, torch.arange(int(real.sum()))).flatten()
    targets = Targets(packed[x["in.tgt_pos"][:, 0]], x["in.labels"][:, 0])
    batch = Batch(0, pixels_of(x), texts, {}, {}, {})
    part = predict_words(model, fused, targets, batch, "write", 1.0, smoothing=0.1)["write"]
    close(model.word_logits(fused.words(targets.rows, texts)), x[f"out.{kind}.logits"])
    close(part.total / part.count, x[f"out.{kind}.loss"])
    if kind == "grounded":
        same_gradients(model, part.total / part.count, x, "grad.grounded.")


@torch.no_grad()
@pytest.mark.parametrize("patches", [225, 256])
def test_position_interpolation(golden, patches):
    x = scenario(golden, "position_interpolation")
    model = published_model(golden)
    model.patches.positions.copy_(x["in.table"])
    close(model.patches.position_table(round(patches**0.5)), x[f"out.{patches}"])


# ---- padded: the published treatment of padding ----


@pytest.fixture
def padded_pair(golden):
    """The fixture `pair`, our model, its towers and fused sequences."""
    x = scenario(golden, "pair")
    model = published_model(golden, released=True)
    batch, real = as_batch(x, padded=True)
    towers = model.towers(batch)
    fused = model.fuse(towers, {"mlm.pairs": Request(torch.arange(3), torch.arange(3))})
    return x, model, batch, towers, fused, real


def test_pair_votes_codes_and_fusion(padded_pair):
    x, model, _, towers, fused, real = padded_pair
    padding = 2e-3  # rows of padding are a softmax rounded at -10,000, see the fixtures' README
    close(towers.words.unflatten(0, (3, 9))[real], x["out.text_out"][real])
    close(towers.words.unflatten(0, (3, 9))[~real], x["out.text_out"][~real], padding)
    scores = towers.image_votes + towers.text_votes
    assert (scores - x["mid.grounding.scores"]).abs().max() <= padding
    one = fused["mlm.pairs"]
    assert one.codes.tolist() == x["out.grounded_indices"].tolist()
    close(model.dictionary.entries[one.codes], x["out.grounded_embeddings"])
    image, ground, words = split(model, one, 9)
    close(image, x["out.fused_image"])
    close(ground, x["out.fused_grounded"])
    close(words[real], x["out.fused_text"][real])
    pooled_image, pooled_text = model.image_pooler(one.image_cls()), model.text_pooler(one.text_cls())
    close(pooled_image, x["out.pooled_image"])
    close(pooled_text, x["out.pooled_text"])
    close(pooled_image * pooled_text, x["out.match_mul"])
    close(pooled_image + pooled_text, x["out.match_sum"])
    close(model.match_logits(one), x["out.itm_logits"])


def test_pair_dictionary_loss_and_its_gradients(padded_pair):
    x, model, _, towers, fused, _ = padded_pair
    _, valid = voting_positions(model, towers, fused["mlm.pairs"].request)
    assert valid.sum(1).tolist() == [196 + 8] * 3  # all but both [CLS], padding included
    loss = vq_loss(GroundedDictionaryLoss().loss(model, None, towers, fused))
    close(loss, x["out.vq_loss"])
    same_gradients(model, loss, x, "grad.vq_loss.")


def test_pair_matching_loss_and_its_gradients(padded_pair):
    x, model, _, _, fused, _ = padded_pair
    both = x["in.is_multimodal"][:, 0].bool()
    logits = model.match_logits(fused["mlm.pairs"])[both]
    loss = F.cross_entropy(logits, x["in.labels"][both, 0])
    close(loss, x["out.itm_loss"])
    same_gradients(model, loss, x, "grad.itm_loss.")


def test_pair_masked_words_and_their_gradients(padded_pair):
    x, model, batch, _, fused, _ = padded_pair
    counted = x["in.lm_loss_flag"][:, 0].bool()
    targets = Targets(x["in.mask_pos"][counted, 0], x["in.mask_label"][counted, 0])
    part = predict_words(model, fused["mlm.pairs"], targets, batch, "mlm", 1.0)["mlm"]
    loss = part.total / part.count
    close(loss, x["out.mlm_loss"])
    same_gradients(model, loss, x, "grad.mlm_loss.")


def test_their_weight_of_pairs_scales_the_whole_loss_of_masked_words(padded_pair):
    """It meets every loss as its mean over all masked words, counted or not (spec unimo2, V3); ours has none."""
    x, model, batch, _, fused, _ = padded_pair
    counted = x["in.lm_loss_flag"][:, 0].bool()
    targets = Targets(x["in.mask_pos"][counted, 0], x["in.mask_label"][counted, 0])
    part = predict_words(model, fused["mlm.pairs"], targets, batch, "mlm", 1.0)["mlm"]
    weights = torch.where(x["in.is_multimodal"][:, 0].bool(), 0.5, 1.0)[x["in.mask_pos"][:, 0] // 9]
    loss = weights.mean() * part.total / part.count
    close(loss, x["out.mlm_loss_mmweight05"])
    same_gradients(model, loss, x, "grad.mlm_loss_mmweight05.")


@pytest.mark.parametrize(
    "name, normalise",
    [("within_batch", "image"), ("cross_batch_1worker", "none"), ("cross_batch_2worker", "none")],
)
def test_pair_contrastive_loss_and_its_gradients(padded_pair, monkeypatch, name, normalise):
    """The published loss counts some rows only, and divides by all; ours sums the rows it is given."""
    x, model, _, towers, _, _ = padded_pair
    everyone = torch.arange(3)
    image = model.contrastive_feature(towers.image_cls(everyone), "image")
    text = model.contrastive_feature(towers.text_cls(everyone), "text")
    counted = (x["in.labels"] * x["in.is_multimodal"])[:, 0]
    if normalise == "image":
        image = F.normalize(image, dim=-1)
    if name == "cross_batch_2worker":
        image, text = (
            torch.cat([image, x["in.remote_image_feat"]]),
            torch.cat([text, x["in.remote_text_feat"]]),
        )
        counted = torch.cat([counted, (x["in.remote_labels"] * x["in.remote_is_multimodal"])[:, 0]])
    identities = torch.arange(len(image)).expand(2, -1)

    total = torch.zeros(())
    for i in counted.nonzero()[:, 0].tolist():  # each counted row as the one local row of rank i
        mine = image[i : i + 1], text[i : i + 1]
        everything = {id(mine[0]): image, id(mine[1]): text}
        monkeypatch.setattr(distributed, "rank", lambda i=i: i)
        monkeypatch.setattr(distributed, "gather", lambda y, e=everything: e.get(id(y), identities.T))
        total = total + contrastive(*mine, identities[:, i : i + 1], model.contrastive_temperature)[0]
    loss = total / len(image)
    close(loss, x[f"out.cmcl_{name}_loss"])
    same_gradients(model, loss, x, f"grad.cmcl_{name}_loss.", 5e-5)


def test_text_only(golden):
    x = scenario(golden, "text_only")
    model = published_model(golden, released=True)
    batch, real = as_batch(x, padded=True, images=False)
    towers = model.towers(batch)
    fused = model.fuse(towers, {"mlm.texts": Request(None, torch.arange(3))})
    one = fused["mlm.texts"]
    assert one.codes.tolist() == x["out.grounded_indices"].tolist()
    _, ground, words = split(model, one, 10, images=0)
    close(towers.words.unflatten(0, (3, 10))[real], x["out.text_out"][real])
    close(ground, x["out.fused_grounded"])
    close(words[real], x["out.fused_text"][real])
    close(model.text_pooler(one.text_cls()), x["out.pooled_text"])
    loss = vq_loss(GroundedDictionaryLoss().loss(model, None, towers, fused))
    close(loss, x["out.vq_loss"])
    same_gradients(model, loss, x, "grad.vq_loss.")


@pytest.mark.parametrize("kind", ["grounded", "baseline"])
def test_classification_of_the_text_pooler(golden, kind):
    x, weights = scenario(golden, "classification"), scenario(golden, "params")
    model = published_model(golden, dictionary=50 if kind == "grounded" else 0, released=True)
    towers = model.towers(as_batch(x, padded=True, images=False)[0])
    fused = model.fuse(towers, {"read": Request(None, torch.arange(3))})["read"]
    w, b = (weights[f"cls_out_{part}"].requires_grad_() for part in "wb")
    logits = model.text_pooler(fused.text_cls()) @ w + b
    loss = F.cross_entropy(logits, x["in.labels"][:, 0])
    close(logits.softmax(-1), x[f"out.{kind}.probs"])
    close(loss, x[f"out.{kind}.loss"])
    loss.backward()
    close(w.grad, x[f"grad.{kind}.cls_out_w"])
    close(b.grad, x[f"grad.{kind}.cls_out_b"])
    if kind == "grounded":
        close(model.dictionary.entries.grad, x["grad.grounded.vq_emb"])


@torch.no_grad()
def test_baseline_pair(golden):
    x = scenario(golden, "baseline_pair")
    model = published_model(golden, dictionary=0, released=True)
    batch, real = as_batch(x, padded=True)
    towers = model.towers(batch)
    one = model.fuse(towers, {"read": Request(torch.arange(3), torch.arange(3))})["read"]
    image, _, words = split(model, one, 9)
    close(image, x["out.fused_image"])
    close(words[real], x["out.fused_text"][real])
    close(model.image_pooler(one.image_cls()), x["out.pooled_image"])
    close(model.text_pooler(one.text_cls()), x["out.pooled_text"])
    both = x["in.is_multimodal"][:, 0].bool()
    close(F.cross_entropy(model.match_logits(one)[both], x["in.labels"][both, 0]), x["out.itm_loss"])
    # And packed without any padding, the real tokens are the same: nothing votes here.
    model = published_model(golden, dictionary=0)
    towers = model.towers(as_batch(x, padded=False)[0])
    packed = model.fuse(towers, {"read": Request(torch.arange(3), torch.arange(3))})["read"]
    kept = torch.cat([torch.ones(3, 197, dtype=torch.bool), real], 1)
    close(packed.hidden, torch.cat([x["out.fused_image"], x["out.fused_text"]], 1)[kept])


@pytest.mark.parametrize(("name", "weight"), [("released", 0.3), ("no_cmcl", 0.0)])
def test_retrieval_circle_loss(golden, name, weight):
    """Score: the matching logit of class 1 and a share of the cosine whose text side is not normalised."""
    x = scenario(golden, "retrieval_circle_loss")
    model = published_model(golden, released=True)
    everyone = torch.arange(5)
    towers = model.towers(as_batch(x, padded=True)[0])
    fused = model.fuse(towers, {"match": Request(everyone, everyone)})["match"]
    cosine = (F.normalize(towers.image_cls(everyone), dim=-1) * towers.text_cls(everyone)).sum(-1)
    scores = (model.match_logits(fused)[:, 1] + weight * cosine)[None]
    close(scores, x[f"out.{name}.score"])
    scores.retain_grad()
    loss = two_sided(scores).mean()
    close(loss, x[f"out.{name}.loss"])
    if name == "released":
        loss.backward()
        close(scores.grad, x["grad.released.score"])
