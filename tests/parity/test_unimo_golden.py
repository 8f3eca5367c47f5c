"""UNIMO against numbers from the authors' published graph (random weights, float32, no dropout).

The fixtures' texts and region lists are padded; our packed rows hold no padding, so real tokens are compared. A sample
without regions is, in the fixtures, an image whose only row nobody may see; ours is a text without an image.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from parity.golden_files import close, real_tokens, same_gradients, scenario
from torch import Tensor

from unimo.batch import KNOWN, TEXT, WRITTEN, Batch, Regions, Targets, Texts
from unimo.model.unified import Request
from unimo.model.unimo import UNIMO
from unimo.objectives.adversarial import Adversarial, adversarial_losses, symmetric_divergence
from unimo.objectives.circle_loss import two_sided
from unimo.objectives.objective import predict_words
from unimo.weights.key_map import convert
from unimo.weights.published_names import key_maps

TASK_HEADS = ["cls_out_1_b", "cls_out_1_w", "cls_out_3_b", "cls_out_3_w"]
TASK_HEADS += ["cls_out_b_0", "cls_out_b_1", "cls_out_w_0", "cls_out_w_1"]
UNTIED = ["mask_lm_out_fc.w_0"]  # of graphs whose output words are not the input words; no released script has one


@pytest.fixture(scope="module")
def files(golden: Path) -> Path:
    return golden / "unimo"


def published_model(files: Path, **options) -> UNIMO:
    """Our model with the fixtures' weights."""
    config = json.loads((files / "params.json").read_text())["config"]
    model = UNIMO(
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        depth=config["num_hidden_layers"],
        region_size=config["image_embedding_size"],
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        **{"matching": 1, **options},
    ).eval()
    report = convert(model, key_maps(model), scenario(files, "params"), where="golden", strict=False)
    assert not report.missing and not report.misshapen
    return model


def texts_of(x: dict[str, Tensor], real: Tensor, roles: Tensor | int = TEXT) -> Texts:
    """The fixture's texts packed; real: (B, L)."""
    roles = torch.full(real.shape, roles) if isinstance(roles, int) else roles
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), real.sum(1).cumsum(0)])
    return Texts(x["in.src_ids"][..., 0][real], x["in.pos_ids"][..., 0][real], roles[real], offsets)


def regions_of(x: dict[str, Tensor]) -> Regions:
    lengths = x["in.image_mask"][..., 0].sum(1).long()
    return Regions(x["in.image_embedding"], x["in.image_loc"], lengths)


def batch_of(texts: Texts, regions: Regions | None = None) -> Batch:
    return Batch(0, torch.zeros(0, 3, 1, 1, dtype=torch.uint8), texts, {}, {}, {}, regions=regions)


def no_texts() -> Texts:
    nothing = torch.zeros(0, dtype=torch.int64)
    return Texts(nothing, nothing, nothing, torch.zeros(1, dtype=torch.int64))


def read_pairs(model: UNIMO, x: dict[str, Tensor]):
    """Every image beside its text."""
    real = x["in.text_mask"][..., 0].bool()
    texts = texts_of(x, real)
    towers = model.towers(batch_of(texts, regions_of(x)))
    everyone = torch.arange(len(texts))
    return model.fuse(towers, {"read": Request(everyone, everyone)})["read"], texts, real


def match_scores(model: UNIMO, x: dict[str, Tensor], groups: int) -> Tensor:
    return model.match_logits(read_pairs(model, x)[0])[:, 0].unflatten(0, (groups, -1))


def states(fused, where: Tensor) -> Tensor:
    """(n, L, D) with the packed states of `where` (n, L) bool; image rows first, then text."""
    return fused.hidden.new_zeros(*where.shape, fused.hidden.shape[-1]).masked_scatter(where[..., None], fused.hidden)


def test_every_published_parameter_has_exactly_one_place(files):
    weights = scenario(files, "params")
    report = convert(published_model(files), key_maps(published_model(files)), weights, where="golden", strict=False)
    assert report.extra == TASK_HEADS + UNTIED
    taken = [name for origin in key_maps(published_model(files)).values() for name in origin.names]
    assert len(set(taken)) == len(taken) == len(weights) - len(TASK_HEADS + UNTIED)


@torch.no_grad()
def test_texts(files):
    x, model = scenario(files, "text_bidirectional"), published_model(files)
    real = real_tokens(x["in.input_mask"])
    assert real.sum(1).unique().numel() > 1  # ragged indeed
    texts = texts_of(x, real)
    towers = model.towers(batch_of(texts))
    fused = model.fuse(towers, {"read": Request(None, torch.arange(3))})["read"]
    close(towers.words, x["mid.embed.pre_encoder"][real])
    close(fused.hidden, x["out.sequence"][real])
    close(model.text_pooler(fused.text_cls()), x["out.pooled_text"])


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["joint", "prefix"])
def test_layer_by_layer_in_both_fusions(files, fusion):
    """Joint is the published mask. Of a text alone, prefix fusion says the same."""
    x, model = scenario(files, "text_bidirectional"), published_model(files, fusion=fusion)
    real = real_tokens(x["in.input_mask"])
    seen = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda _, __, out: seen.append(out))
    model.fuse(model.towers(batch_of(texts_of(x, real))), {"read": Request(None, torch.arange(3))})
    for i, out in enumerate(seen):
        close(out[: int(real.sum())], x[f"mid.encoder_layer_{i}.out"][real])


@torch.no_grad()
def test_pairs(files):
    x, model = scenario(files, "pair_bidirectional"), published_model(files)
    fused, _, real = read_pairs(model, x)
    valid = x["in.image_mask"][..., 0].bool()
    assert valid.sum(1).tolist()[2] == 0  # the third has no regions
    close(model.encode_images(regions_of(x)), x["mid.embed.v_pre_encoder"])
    expected = torch.cat([x["out.image_sequence"], x["out.text_sequence"]], 1)
    close(fused.hidden, expected[torch.cat([valid, real], 1)])
    close(model.text_pooler(fused.text_cls()), x["out.pooled_text"])
    imaged = valid[:, 0]
    pooled_image = model.image_pooler(fused.image_cls())[imaged]
    close(pooled_image, x["out.pooled_image"][imaged])
    close(pooled_image * model.text_pooler(fused.text_cls())[imaged], x["out.match_mul"][imaged])
    close(pooled_image + model.text_pooler(fused.text_cls())[imaged], x["out.match_sum"][imaged])


@torch.no_grad()
def test_images_alone(files):
    x, model = scenario(files, "image_only"), published_model(files)
    valid = x["in.image_mask"][..., 0].bool()
    images = valid.any(1).nonzero()[:, 0]
    towers = model.towers(batch_of(no_texts(), regions_of(x)))
    fused = model.fuse(towers, {"read": Request(images, None)})["read"]
    close(fused.hidden, x["out.image_sequence"][valid])
    close(model.image_pooler(fused.image_cls()), x["out.pooled_image"][images])


def test_masked_words_and_their_gradients(files):
    x, model = scenario(files, "text_mlm"), published_model(files)
    real = real_tokens(x["in.input_mask"])
    texts = texts_of(x, real)
    fused = model.fuse(model.towers(batch_of(texts)), {"read": Request(None, torch.arange(len(texts)))})["read"]
    asked = Targets(packed(real)[x["in.mask_pos"][:, 0]], x["in.labels"][:, 0])
    close(model.word_logits(fused.words(asked.rows, texts)), x["out.logits"])
    part = predict_words(model, fused, asked, batch_of(texts), "mlm", 1.0)["mlm"]
    loss = part.total / part.count
    close(loss, x["out.loss"].squeeze())
    same_gradients(model, loss, x, "grad.")


def packed(real: Tensor) -> Tensor:
    """Flat padded place b * L + t -> packed row, -1 where there is none."""
    return torch.full(real.shape, -1).masked_scatter(real, torch.arange(int(real.sum()))).flatten()


@pytest.mark.parametrize(("name", "smoothing"), [("loss_smooth", 0.1), ("loss_plain", 0.0)])
def test_writing_after_a_source(files, name, smoothing):
    x, model = scenario(files, "text_seq2seq_loss"), published_model(files)
    real = x["in.src_ids"][..., 0] != 1
    written = torch.arange(real.shape[1]) >= x["in.tgt_start"][:, None]
    texts = texts_of(x, real, torch.where(written, WRITTEN, KNOWN))
    fused = model.fuse(model.towers(batch_of(texts)), {"write": Request(None, torch.arange(2))})["write"]
    asked = Targets(packed(real)[x["in.tgt_pos"][:, 0]], x["in.labels"][:, 0])
    close(model.word_logits(fused.words(asked.rows, texts)), x["out.logits"])
    part = predict_words(model, fused, asked, batch_of(texts), "write", 1.0, smoothing=smoothing)["write"]
    close(part.total / part.count, x[f"out.{name}"].squeeze())
    if name == "loss_smooth":
        same_gradients(model, part.total / part.count, x, "grad.")


def test_captions_after_tags(files):
    x, model = scenario(files, "caption_loss"), published_model(files)
    tags, caption = x["in.obj_mask"][..., 0].bool(), x["in.text_mask"][..., 0].bool()
    real = torch.cat([tags, caption], 1)
    both = {
        f"in.{name}": torch.cat([x[f"in.{part}"], x[f"in.{name}"]], 1)
        for part, name in (("obj_ids", "src_ids"), ("obj_pos", "pos_ids"))
    }
    roles = torch.cat([torch.full(tags.shape, KNOWN), torch.full(caption.shape, WRITTEN)], 1)
    texts = texts_of(both, real, roles)
    batch = batch_of(texts, regions_of(x))
    fused = model.fuse(model.towers(batch), {"write": Request(torch.arange(2), torch.arange(2))})["write"]
    shift = tags.shape[1]
    place, length = x["in.tgt_pos"][:, 0], caption.shape[1]
    rows = packed(real)[place // length * (shift + length) + shift + place % length]
    asked = Targets(rows, x["in.labels"][:, 0])
    close(model.word_logits(fused.words(rows, texts)), x["out.logits"])
    ce = F.cross_entropy(
        model.word_logits(fused.words(rows, texts)), asked.labels, reduction="none", label_smoothing=0.1
    )
    close(ce[:, None], x["out.ce"])
    part = predict_words(model, fused, asked, batch, "write", 1.0, smoothing=0.1)["write"]
    close(part.total / part.count, x["out.loss"].squeeze())
    valid = x["in.image_mask"][..., 0].bool()
    hidden = states(fused, torch.cat([valid, real], 1))
    close(hidden[:, : valid.shape[1]][valid], x["out.image_sequence"][valid])
    close(hidden[:, valid.shape[1] + shift :][caption], x["out.caption_sequence"][caption])
    same_gradients(model, part.total / part.count, x, "grad.")


@pytest.mark.parametrize(("name", "outputs"), [("cls3", 3), ("reg", 1)])
def test_classification_and_regression(files, name, outputs):
    x, weights, model = scenario(files, "classification"), scenario(files, "params"), published_model(files)
    real = real_tokens(x["in.input_mask"])
    fused = model.fuse(model.towers(batch_of(texts_of(x, real))), {"read": Request(None, torch.arange(3))})["read"]
    w, b = (weights[f"cls_out_{outputs}_{part}"].requires_grad_() for part in "wb")
    logits = model.text_pooler(fused.text_cls()) @ w + b
    labels = x[f"in.{name}.labels"]
    if name == "cls3":
        loss = F.cross_entropy(logits, labels[:, 0])
        close(logits.softmax(-1), x["out.cls3.probs"])
        close((logits.argmax(-1) == labels[:, 0]).float().mean(), x["out.cls3.accuracy"].squeeze())
    else:
        loss = F.mse_loss(logits, labels)
        close(logits, x["out.reg.probs"])
    close(loss, x[f"out.{name}.loss"].squeeze())
    same_gradients(model, loss, x, f"grad.{name}.", extra={f"cls_out_{outputs}_w": w, f"cls_out_{outputs}_b": b})


@pytest.mark.parametrize(("name", "scale"), [("raw", 1.0), ("sigmoid_scale2", 2.0)])
def test_retrieval_circle_loss(files, name, scale):
    x, model = scenario(files, "retrieval_circle_loss"), published_model(files)
    scores = match_scores(model, x, groups=2)
    if name == "raw":
        close(scores.flatten(), x["out.eval.score"].flatten())
    else:
        scores = scores.sigmoid()
    close(scores, x[f"out.{name}.score"])
    scores.retain_grad()
    both = two_sided(scores, scale=scale)
    loss = both.mean()
    close(loss, x[f"out.{name}.loss"].squeeze())
    same_gradients(model, loss, x, f"grad.{name}.", extra={"score": scores})


def test_adversarial_training_of_visual_entailment(files):
    """Perturbations, gradients, losses of every inner step; the first, random perturbations come from the fixture."""
    x, weights = scenario(files, "visual_entailment_adversarial"), scenario(files, "params")
    values = json.loads((files / "visual_entailment_adversarial.json").read_text())["values"]["released.settings"]
    model = published_model(files)
    real = x["in.text_mask"][..., 0].bool()
    batch = batch_of(texts_of(x, real), regions_of(x))
    everyone = torch.arange(len(real))
    head = [weights[f"cls_out_{part}"].requires_grad_() for part in ("w_0", "b_0", "w_1", "b_1")]
    answers = []

    def ask(batch: Batch) -> tuple[Tensor, Tensor]:
        fused = model.fuse(model.towers(batch), {"read": Request(everyone, everyone)})["read"]
        both = model.text_pooler(fused.text_cls()) + model.image_pooler(fused.image_cls())
        logits = (both @ head[0] + head[1]) @ head[2] + head[3]
        answers.append((logits, F.cross_entropy(logits, x["in.labels"][:, 0])))
        return answers[-1]

    settings = Adversarial(steps=values["adv_step"], lr=values["adv_lr"], max_norm=values["adv_max_norm"])
    deltas = {"text": x["out.released.text_delta.0"][real], "image": x["out.released.image_delta.0"]}
    total = torch.zeros(())
    for i, loss in enumerate(adversarial_losses(ask, batch, settings, deltas)):
        clean = answers[3 * i][0]
        close(clean, x[f"out.released.logits_clean.{i}"])
        for side, (logits, wrong) in zip(("text", "image"), answers[3 * i + 1 :]):
            close(logits, x[f"out.released.logits_{side}.{i}"])
            close(wrong / settings.steps, x[f"out.released.{side}_loss.{i}"].squeeze())
            close(symmetric_divergence(clean, logits), x[f"out.released.kl_{side}.{i}"].squeeze())
        if i + 1 < settings.steps:
            close(deltas["text"], x[f"out.released.text_delta.{i + 1}"][real])
            close(deltas["image"], x[f"out.released.image_delta.{i + 1}"])
        total = total + loss
    close(total, x["out.released.total_loss"].squeeze())
    close(clean.softmax(-1), x["out.released.probs_clean"])
    same_gradients(model, total, x, "grad.released.", extra={"cls_out_w_1": head[2]})
