"""Where an answer looked: the weights are those the layer itself used, each on its part of the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_task import keys_of, tiny_run, write_csv, write_images, write_start

from unimo.finetune.attention_maps import attention_map, drawn
from unimo.finetune.job import Task
from unimo.finetune.settings import TaskData
from unimo.inference import Pipeline
from unimo.model.attention import attend


@pytest.fixture(params=["unimo-2", "unimo"])
def opened(request, tmp_path):
    """A task over images and texts, opened, with the model it would begin with."""
    colours = write_images(tmp_path / "images", 4, regions=request.param == "unimo")
    keys = keys_of(tmp_path / "images")
    rows = [
        {"id": i, "image": key, "text": f"which colour {i}", "label": c}
        for i, (key, c) in enumerate(zip(keys, colours))
    ]
    start = write_start(tmp_path / "start", request.param)
    data = TaskData(train=(write_csv(tmp_path / "rows.csv", rows),), images=(str(tmp_path / "images"),))
    task = Task(tiny_run(start, "classification", data))
    task.open(tmp_path / "out", lambda _: None)
    torch.manual_seed(0)
    return task, Pipeline(task.build(), precision="fp32")


def test_fractions_add_up_and_tile_the_image(opened):
    task, pipeline = opened
    rows = task.rows("train")
    look = np.array(attention_map(task.task_type, pipeline, rows, 1))
    assert look[:, 4].sum() == pytest.approx(1, abs=1e-3) and (look[:, 4] >= 0).all()
    if task.settings.model.member == "unimo-2":  # 16 pixels in patches of 8: four quarters, row by row
        assert look[:, :4].tolist() == [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]
    else:
        assert look[:, :4] == pytest.approx(rows.seen(1).boxes[1:, :4], abs=1e-4)
    hooks = pipeline.model.fuser.layers[-1].attention._forward_pre_hooks
    assert not hooks and look.tolist() == attention_map(task.task_type, pipeline, rows, 1)


def test_the_weights_are_those_of_attention_itself(opened):
    task, pipeline = opened
    layer, seen = pipeline.model.fuser.layers[-1].attention, {}
    hook = layer.register_forward_pre_hook(lambda _, given: seen.update(x=given[0], plan=given[1]))
    attention_map(task.task_type, pipeline, task.rows("train"), 0)
    hook.remove()
    x, plan = seen["x"], seen["plan"]
    with torch.no_grad():
        q, k, v = (part[: len(plan)] for part in layer.qkv(x).chunk(3, -1))
        expected = attend(q, k, v, plan, layer.heads, form="reference")
        queries = torch.arange(len(plan)).flip(0)  # in any order
        weights = layer.weights(x, plan, queries)  # (H, Q, T)
        found = torch.einsum("hqt,thd->qhd", weights, v.unflatten(-1, (layer.heads, -1))).flatten(1)
        assert torch.allclose(found, expected[queries], atol=1e-5)


def test_what_was_looked_at_most_is_brightest():
    image = Image.new("RGB", (10, 10), (100, 100, 250))
    shown = np.asarray(drawn(image, [[0, 0, 0.5, 1, 0.8], [0.5, 0, 1, 0.5, 0.2]])).astype(int)
    side = shown.shape[0]
    plain, lit = shown[:, :side], shown[:, -side:]
    assert (plain == (100, 100, 250)).all()
    left, top_right, bottom_right = (lit[y, x, 2] for y, x in ((9, side // 4), (9, -side // 4), (-9, -side // 4)))
    assert left == 250 > top_right > bottom_right > 0
    covered = np.asarray(drawn(image, [[0, 0, 1, 1, 0.3], [0, 0, 0.5, 1, 0.7]])).astype(int)
    assert covered[9, side + 8, 2] == 250 > covered[9, -9, 2]  # a small region shows on a large one
