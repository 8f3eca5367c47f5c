"""The world of `scenes`: splits, geometry, pixels and the folders it is written to."""

import hashlib
import io
import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unimo.errors import DataError, ResourceError, UsageError
from unimo.synthetic.dataset import write_world
from unimo.synthetic.language import caption_is_true, parse_caption
from unimo.synthetic.world import (
    COLOURS,
    COMBINATIONS,
    GROUNDS,
    MARGIN,
    RESERVED,
    SHAPES,
    boxes,
    class_scene,
    draw,
    relations,
    scene,
)

SMALL = {"pairs": 40, "images": 10, "texts": 20, "heldout": 24, "compositional": 8, "classes": 64}


def bag(a_scene):
    things = a_scene.things
    return tuple(sorted(t.colour for t in things)), tuple(sorted(t.shape for t in things))


def members(path):
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}


def pair_truths(path):
    return [json.loads(data) for name, data in members(path).items() if name.endswith(".json")]


def test_a_scene_depends_on_its_arguments_alone():
    forward = [scene(3, "train", i) for i in range(20)]
    backward = [scene(3, "train", i) for i in reversed(range(20))]
    assert forward == backward[::-1]
    assert draw(forward[5]).tobytes() == draw(backward[14]).tobytes()
    assert len({scene(seed, "train", 5) for seed in range(20)}) == 20


def test_no_bag_of_colours_and_shapes_is_in_two_splits_whatever_the_seed():
    train = {bag(scene(seed, "train", i)) for seed in (0, 1) for i in range(1500)}
    heldout = {bag(scene(2, "heldout", i)) for i in range(500)}
    compositional = [scene(2, "compositional", i) for i in range(200)]
    assert len(heldout) > 100 and not train & heldout
    assert all(RESERVED & {t.kind for t in s.things} for s in compositional)


def test_training_lacks_the_reserved_combinations_but_no_colour_and_no_shape():
    seen = {thing.kind for i in range(1500) for thing in scene(0, "train", i).things}
    assert seen == set(COMBINATIONS) - RESERVED
    assert {colour for colour, _ in seen} == set(COLOURS) and {shape for _, shape in seen} == set(SHAPES)
    assert 0.05 < len(RESERVED) / len(COMBINATIONS) < 0.15


@pytest.mark.parametrize("split", ["train", "heldout", "compositional"])
def test_things_keep_apart_inside_the_image_and_any_two_have_a_relation(split):
    for i in range(200):
        one = scene(0, split, i)
        assert 2 <= len(one.things) <= 4 and len({thing.kind for thing in one.things}) > 1
        edges = set(relations(one))
        for (a, p), (b, q) in itertools.combinations(enumerate(boxes(one)), 2):
            assert p[2] <= q[0] or q[2] <= p[0] or p[3] <= q[1] or q[3] <= p[1]
            assert any((a, name, b) in edges for name in ("left of", "right of", "above", "below"))
        assert all(0 <= edge <= 64 for box in boxes(one) for edge in box)


def test_relations_follow_from_the_boxes():
    for i in range(100):
        one = scene(0, "train", i)
        centres = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in boxes(one, size=6400)]
        gap = MARGIN * 6400
        expected = set()
        for (a, (xa, ya)), (b, (xb, yb)) in itertools.permutations(enumerate(centres), 2):
            sides = {"left of": xb - xa, "right of": xa - xb, "above": yb - ya, "below": ya - yb}
            expected |= {(a, name, b) for name, distance in sides.items() if distance > gap - 0.01}
        assert set(relations(one)) == expected


def test_equal_things_twins_and_how_many():
    scenes = [scene(0, "train", i) for i in range(1000)]
    assert 0.15 < np.mean([len({t.kind for t in s.things}) < len(s.things) for s in scenes]) < 0.6
    same_bag = [bag(a) == bag(b) for a, b in zip(scenes[::2], scenes[1::2])]
    assert 0.4 < np.mean(same_bag) < 0.6
    twins = [scene(0, "train", i, twins=1.0) for i in range(100)]
    for a, b in zip(twins[::2], twins[1::2]):
        assert bag(a) == bag(b) and set(a.things) != set(b.things)
        assert [(t.x, t.y, t.size) for t in a.things] == [(t.x, t.y, t.size) for t in b.things]


def test_the_number_of_objects_is_an_option_and_nonsense_is_refused():
    assert {len(scene(0, "train", i, objects=(3, 3)).things) for i in range(20)} == {3}
    for wrong in ({"objects": (0, 3)}, {"objects": (3, 2)}, {"objects": (2, 9)}, {"twins": 1.5}):
        with pytest.raises(UsageError):
            scene(0, "train", 0, **wrong)
    with pytest.raises(UsageError):
        scene(0, "test", 0)


@pytest.mark.parametrize("size", [64, 96])
def test_the_pixels_show_each_thing_in_its_colour_inside_its_box_and_nothing_else(size):
    names = list(COLOURS)
    palette = np.array(list(COLOURS.values()))
    for i in range(60):
        one = scene(1, "compositional", i)
        image = draw(one, size)
        assert image.mode == "RGB" and image.size == (size, size)
        pixels = np.asarray(image).astype(int)
        ground = np.abs(pixels - np.array(GROUNDS[one.ground])).max(axis=-1) <= 8
        for thing, (x0, y0, x1, y1) in zip(one.things, boxes(one, size)):
            inside = np.s_[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]
            painted = pixels[inside][~ground[inside]]
            distances = np.abs(painted[:, None] - palette).sum(axis=-1)
            exact = distances.min(axis=-1) <= 3
            assert exact.mean() > 0.3 and {names[k] for k in distances[exact].argmin(axis=-1)} == {thing.colour}
            rows, columns = np.nonzero(~ground[inside])
            assert np.ptp(columns) + 1 >= x1 - x0 - 2 and np.ptp(rows) + 1 >= y1 - y0 - 2  # the box is tight
            around = np.s_[max(0, int(y0) - 1) : int(np.ceil(y1)) + 1, max(0, int(x0) - 1) : int(np.ceil(x1)) + 1]
            ground[around] = True  # edges may bleed into the next pixel
        assert ground.all()


def test_small_things_are_at_least_nine_pixels_and_all_outlines_differ_when_drawn():
    for size, smallest, largest in (("small", 9, 10), ("large", 14, 14)):
        scenes = [class_scene(0, i)[0] for i in range(256)]
        widths = [box[2] - box[0] for s in scenes for box in boxes(s) if s.things[0].size == size]
        assert smallest <= min(widths) and max(widths) <= largest
    cuts = {}
    for i in range(512):
        one, _, name = class_scene(0, i)
        if one.things[0].size == "small" and name.startswith("black"):
            x0, y0, *_ = (round(edge) for edge in boxes(one)[0])
            cuts[name] = np.asarray(draw(one).convert("L"))[y0 : y0 + 11, x0 : x0 + 11].astype(float)
    assert len(cuts) == len(SHAPES)
    for a, b in itertools.combinations(cuts.values(), 2):
        assert np.abs(a - b).mean() > 15  # of 255: even small things differ clearly


def test_class_images_hold_one_thing_of_their_class_in_turn():
    for i in range(130):
        one, label, name = class_scene(0, i)
        assert label == i % 64 and len(one.things) == 1
        assert name == " ".join(COMBINATIONS[label]) == " ".join(one.things[0].kind)


# ------------------------------------------------------------------------------------------------ folders


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "world"
    return folder, write_world(folder, **SMALL)


def test_the_world_has_the_promised_files_and_truths(world):
    folder, manifest = world
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {*manifest["files"], "world.json"}
    assert json.loads((folder / "world.json").read_text()) == manifest
    for name, about in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == about["sha256"]
    for name, split in (("pairs", "train"), ("heldout", "heldout"), ("compositional", "compositional")):
        found = members(folder / name / f"{split}-00000.tar")
        assert len(found) == 2 * SMALL[name]
        for i in range(SMALL[name]):
            key, one = f"{split}-{i:06d}", scene(0, split, i)
            truth = json.loads(found[f"{key}.json"])
            assert truth["key"] == key and len(truth["captions"]) == 2
            assert all(caption_is_true(caption, one) for caption in truth["captions"])
            assert truth["boxes"] == boxes(one)
            assert [(o["colour"], o["shape"]) for o in truth["objects"]] == [t.kind for t in one.things]
            image = Image.open(io.BytesIO(found[f"{key}.png"]))
            assert image.tobytes() == draw(one).tobytes()
            assert (truth["width"], truth["height"]) == image.size
    assert len(members(folder / "images/train-00000.tar")) == 2 * SMALL["images"]
    classes = json.loads((folder / "classes/classes.json").read_text())
    for truth in pair_truths(folder / "classes/classes-00000.tar"):
        assert classes["names"][truth["label"]] == truth["label_name"]
    assert len(classes["reserved"]) == len(RESERVED)


def test_lines_name_images_that_exist(world):
    folder, _ = world
    for name, images in (("qa/train", "pairs"), ("entailment/train", "pairs"), ("qa/heldout", "heldout")):
        keys = {truth["key"] for truth in pair_truths(next((folder / images).glob("*.tar")))}
        lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        assert {line["image"] for line in lines} == keys
    foils = [json.loads(line) for line in (folder / "foils/foils.jsonl").read_text().splitlines()]
    for foil in foils:
        one = scene(0, "heldout", int(foil["image"].split("-")[1]))
        assert caption_is_true(foil["positive"], one) and not caption_is_true(foil["negative"], one)
    assert len((folder / "texts/train.jsonl").read_text().splitlines()) == SMALL["texts"]


def test_the_same_parameters_give_the_same_bytes_and_the_numbers_only_append(world, tmp_path):
    folder, manifest = world
    assert write_world(tmp_path / "again", **SMALL)["files"] == manifest["files"]
    write_world(tmp_path / "more", **{**SMALL, "pairs": 50, "images": 12})
    for name in ("pairs", "images"):
        few, more = (members(root / name / "train-00000.tar") for root in (folder, tmp_path / "more"))
        assert few.items() <= more.items()
    with tarfile.open(folder / "pairs/train-00000.tar") as tar:
        assert {(i.mtime, i.uid, i.gid, i.uname, i.gname) for i in tar} == {(0, 0, 0, "", "")}


def test_more_places_are_stated_to_train_on_and_nothing_else_changes(world, tmp_path):
    folder, manifest = world
    placed = write_world(tmp_path / "placed", **SMALL, placed=0.9)
    assert {name for name, digest in manifest["files"].items() if placed["files"][name] != digest} == {
        "pairs/train-00000.tar"
    }

    def places(root: Path) -> int:
        found = members(root / "pairs/train-00000.tar")
        captions = [c for name, data in found.items() if name.endswith(".json") for c in json.loads(data)["captions"]]
        return sum(len(mention["places"]) for caption in captions for mention in parse_caption(caption))

    assert places(tmp_path / "placed") > 1.5 * places(folder)
    with pytest.raises(UsageError):
        write_world(folder, **SMALL, placed=0.9)


def test_things_alone_are_further_images_told_with_their_places(world, tmp_path):
    _, manifest = world
    more = write_world(tmp_path / "more", **SMALL, alone=30)
    assert more["files"].keys() - manifest["files"].keys() == {"pairs/alone-00000.tar"}
    assert manifest["files"].items() <= more["files"].items()
    for truth in pair_truths(tmp_path / "more/pairs/alone-00000.tar"):
        (thing,) = truth["objects"]
        assert (thing["colour"], thing["shape"]) not in RESERVED and not truth["relations"]
    spatial = write_world(tmp_path / "spatial", **SMALL, alone=30, places=0.5, relations=0.5)
    for truth in pair_truths(tmp_path / "spatial/pairs/alone-00000.tar"):
        assert all(mention["places"] for caption in truth["captions"] for mention in parse_caption(caption))
    assert spatial["parameters"]["places"] == 0.5 and "places" not in manifest["parameters"]
    for wrong in ({"alone": -1}, {"places": -0.1}, {"places": 0.6, "relations": 0.6}):
        with pytest.raises(UsageError):
            write_world(tmp_path / "none", **SMALL, **wrong)


def test_a_finished_world_is_reused_another_refused_a_damaged_one_named(world, tmp_path):
    folder, manifest = world
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_world(folder, **SMALL) == manifest
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == stamps
    with pytest.raises(UsageError):
        write_world(folder, **{**SMALL, "seed": 1})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("do not touch")
    with pytest.raises(UsageError):
        write_world(tmp_path / "mine", **SMALL)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    copy = tmp_path / "copy"
    write_world(copy, **{**SMALL, "pairs": 4})
    data = bytearray((copy / "pairs/train-00000.tar").read_bytes())
    data[700] ^= 1
    (copy / "pairs/train-00000.tar").write_bytes(data)
    with pytest.raises(DataError, match="train-00000"):
        write_world(copy, **{**SMALL, "pairs": 4})


def test_a_failed_write_leaves_nothing_and_leftovers_of_a_killed_one_do_no_harm(tmp_path, monkeypatch):
    few = {**dict.fromkeys(SMALL, 0), "pairs": 3}
    (tmp_path / ".world.partial/pairs").mkdir(parents=True)
    (tmp_path / ".world.partial/pairs/old.tar").write_text("half")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("unimo.synthetic.dataset._write_jsonl", full_disk)
        with pytest.raises(ResourceError, match="No space left"):
            write_world(tmp_path / "world", **few)
    assert not (tmp_path / "world").exists() and not (tmp_path / ".world.partial").exists()
    (tmp_path / ".world.partial").mkdir()
    (tmp_path / ".world.partial/old.tar").write_text("half")
    write_world(tmp_path / "world", **few)
    assert not (tmp_path / "world/old.tar").exists()
    assert {p.name for p in (tmp_path / "world").iterdir()} == {"pairs", "qa", "entailment", "world.json"}


@pytest.mark.parametrize("wrong", [{"pairs": -1}, {"size": 4}, {"captions_per_image": 0}, {"objects": (5, 6)}])
def test_an_impossible_world_is_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(UsageError):
        write_world(tmp_path / "world", **{**SMALL, **wrong})
    assert not list(tmp_path.iterdir())
