"""Regions of an image: boxes as shares of it, [IMG] in front, and what is refused."""

import base64

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unimo.data.regions import (
    CAPTION_FIELDS,
    box_vectors,
    image_regions,
    read_caption_line,
    read_tag_line,
    stack_regions,
    with_global,
)
from unimo.errors import DataError, UsageError

WIDTH, HEIGHT = 640, 480
BOX = [10.0, 20.0, 110.0, 220.0]


def random_image(regions=5, features=6, classes=3, seed=0):
    """(features, boxes, classes) as a detector gives them."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((regions, 2, 2)), axis=1) * [WIDTH, HEIGHT]
    return rng.normal(size=(regions, features)), corners.reshape(regions, 4), rng.random((regions, classes))


# ---- boxes


def test_a_box_by_hand():
    vector = box_vectors([BOX], WIDTH, HEIGHT)
    assert vector.dtype == np.float32
    expected = [10 / 640, 20 / 480, 110 / 640, 220 / 480, 100 * 200 / (640 * 480)]
    np.testing.assert_allclose(vector, [expected], rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.01, 1.0, 7.0]))
def test_vectors_are_shares(seed, scale):
    boxes = random_image(seed=seed)[1]
    vectors = box_vectors(boxes * scale, WIDTH * scale, HEIGHT * scale)
    np.testing.assert_allclose(vectors, box_vectors(boxes, WIDTH, HEIGHT), atol=1e-6)  # the unit does not matter
    assert (vectors >= 0).all() and (vectors <= 1).all()
    x1, y1, x2, y2, area = vectors.T
    np.testing.assert_allclose(area, (x2 - x1) * (y2 - y1), atol=1e-6)


def test_the_whole_image_is_img():
    features, boxes = with_global(*(table.astype(np.float32) for table in (random_image()[0], np.zeros((5, 5)))))
    np.testing.assert_array_equal(boxes[:1], box_vectors([[0, 0, WIDTH, HEIGHT]], WIDTH, HEIGHT))
    np.testing.assert_allclose(features[0], random_image()[0].mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(features[1:], random_image()[0].astype(np.float32))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([BOX, [110, 20, 10, 220]], "ends before it begins.*region 1"),  # x1, x2 swapped
        ([BOX, BOX, [20, 220, 110, 10]], "ends before it begins.*region 2"),
        ([[10, 20, 470, 500], BOX], "outside its image.*region 0.*width"),  # sizes swapped
        ([BOX, [-2, 0, 5, 5]], "outside its image.*region 1"),
        ([BOX, [0, 0, 642, 5]], "outside its image.*region 1"),
        ([BOX, [0, 0, np.nan, 5]], "not finite.*region 1.*nan"),
        ([BOX, [0, -np.inf, 5, 5]], "not finite.*region 1.*inf"),
        (np.zeros((0, 4)), "R at least 1"),
        ([], "Not a table"),
        (BOX, "Not a table"),
        ([[0, 0, 5, 5, 1]], r"\(R, 4\)"),
        ([["left", 0, 5, 5]], "no number"),
        ([BOX, BOX[:3]], "no number"),
    ],
)
def test_bad_boxes_are_refused_with_their_place(boxes, message):
    with pytest.raises(DataError, match=message) as caught:
        box_vectors(boxes, WIDTH, HEIGHT, where="line 4")
    assert str(caught.value.where).startswith("line 4")


@pytest.mark.parametrize("size", [(0, 480), (640, -1), (np.nan, 480), (640, np.inf)])
def test_images_without_a_size_are_refused(size):
    with pytest.raises(DataError, match="without a size"):
        box_vectors([BOX], *size)


def test_a_detector_may_round_by_a_pixel():
    assert box_vectors([[-0.5, 0, 640.5, 480.9]], WIDTH, HEIGHT)[0, 2] > 1


# ---- images


def test_regions_of_an_image():
    features, boxes, classes = random_image()
    image = image_regions(features, boxes, WIDTH, HEIGHT, classes=classes)
    assert image.features.shape == (6, 6) and image.boxes.shape == (6, 5) and image.classes.shape == (6, 3)
    assert {image.features.dtype, image.boxes.dtype, image.classes.dtype} == {np.dtype(np.float32)}
    np.testing.assert_allclose(image.classes[0], classes.mean(axis=0), rtol=1e-6)
    assert image_regions(features, boxes, WIDTH, HEIGHT).classes is None

    short = image_regions(features, boxes, WIDTH, HEIGHT, classes=classes, max_rows=3)
    assert len(short) == 3
    for name in ("features", "boxes", "classes"):  # [IMG] is the mean over all regions nevertheless
        np.testing.assert_array_equal(getattr(short, name), getattr(image, name)[:3])
    assert len(image_regions(features, boxes, WIDTH, HEIGHT, max_rows=99)) == 6


def test_tables_that_do_not_fit_are_refused():
    features, boxes, classes = random_image()
    with pytest.raises(DataError, match=r"feature row for each box.*got: 4.*expected: 5"):
        image_regions(features[:4], boxes, WIDTH, HEIGHT)
    with pytest.raises(DataError, match="class probability row for each box"):
        image_regions(features, boxes, WIDTH, HEIGHT, classes=classes[:4])
    features[3, 2] = np.nan
    with pytest.raises(DataError, match=r"feature is not finite.*cat.jpg, region 3"):
        image_regions(features, boxes, WIDTH, HEIGHT, where="cat.jpg")
    with pytest.raises(UsageError, match="max_rows"):
        image_regions(features, boxes, WIDTH, HEIGHT, max_rows=1)


def test_stacked_images_lie_in_one_rectangle():
    images = [
        image_regions(*random_image(n, seed=n)[:2], WIDTH, HEIGHT, classes=random_image(n, seed=n)[2])
        for n in (2, 5, 1)
    ]
    stacked = stack_regions(images)
    assert stacked.lengths.tolist() == [3, 6, 2]
    assert (
        stacked.features.shape == (3, 6, 6) and stacked.boxes.shape == (3, 6, 5) and stacked.classes.shape == (3, 6, 3)
    )
    for name in ("features", "boxes", "classes"):
        rectangle = getattr(stacked, name)
        for i, image in enumerate(images):
            torch.testing.assert_close(rectangle[i, : len(image)], torch.from_numpy(getattr(image, name)))
            assert not rectangle[i, len(image) :].any()
    without = image_regions(*random_image()[:2], WIDTH, HEIGHT)
    assert stack_regions([images[0], without]).classes is None
    with pytest.raises(UsageError, match="No images"):
        stack_regions([])


# ---- released files


def blob(table):
    return base64.b64encode(np.asarray(table, "<f4").tobytes()).decode()


def caption_line(**changed):
    features, boxes, classes = random_image()
    fields = dict.fromkeys(CAPTION_FIELDS, "")
    fields |= {"image": "COCO_val_391895", "caption": "7", "height": HEIGHT, "width": WIDTH, "number of boxes": 5}
    fields |= {"boxes": blob(boxes), "class probabilities": blob(classes), "features": blob(features), "label": 1}
    fields |= {"token ids": "0 50 51 52 2", "positions": "2 3 4 5 6", "segment labels": "-1 0 1 0 -1"}
    fields |= {name.replace("_", " "): value for name, value in changed.items()}
    return ";".join(str(value) for value in fields.values()) + "\n"


SMALL = {"feature_size": 6, "classes": 3}


def test_a_caption_line():
    line = read_caption_line(caption_line(), **SMALL)
    assert (line.image, line.caption, line.label) == ("391895", "7", 1)
    assert line.ids.tolist() == [0, 50, 51, 52, 2]
    assert line.positions.tolist() == [2, 3, 4, 5, 6]
    assert line.word_starts.tolist() == [-1, 0, 1, 0, -1]
    features, boxes, classes = random_image()
    expected = image_regions(features, boxes, WIDTH, HEIGHT, classes=classes)
    for name in ("features", "boxes", "classes"):
        np.testing.assert_array_equal(getattr(line.regions, name), getattr(expected, name))
    assert len(read_caption_line(caption_line(), max_rows=3, **SMALL).regions) == 3


def test_a_long_caption_loses_words_but_not_its_sep():
    line = read_caption_line(caption_line(), max_length=4, **SMALL)
    assert line.ids.tolist() == [0, 50, 51, 2]
    assert line.positions.tolist() == [2, 3, 4, 5]
    assert line.word_starts.tolist() == [-1, 0, 1, -1]
    with pytest.raises(UsageError, match="max_length"):
        read_caption_line(caption_line(), max_length=1, **SMALL)


def test_a_caption_to_be_written_has_no_tokens():
    line = read_caption_line(caption_line(token_ids="", positions="", segment_labels=""), **SMALL)
    assert len(line.ids) == len(line.positions) == len(line.word_starts) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"features": blob(np.zeros((5, 6)))[:-4]}, "another size.*features.*got: 117 bytes.*expected: 120"),
        ({"number_of_boxes": 4}, "another size"),
        ({"class_probabilities": blob(np.zeros((5, 4)))}, "another size.*class probabilities"),
        ({"boxes": "!!!!"}, "Not base64.*boxes"),
        ({"features": "ÿ"}, "Not base64.*features"),
        ({"number_of_boxes": 0, "boxes": "", "features": "", "class_probabilities": ""}, "R at least 1"),
        ({"number_of_boxes": "five"}, "Not a whole number.*number of boxes"),
        ({"height": ""}, "Not a whole number.*height"),
        ({"height": WIDTH, "width": HEIGHT}, "outside its image"),
        ({"token_ids": "0 fifty 51 52 2"}, "row of whole numbers.*token ids"),
        ({"token_ids": f"0 {10**30} 51 52 2"}, "row of whole numbers.*token ids"),
        ({"positions": "2 3 4"}, "differ in length.*3 positions.*expected: 5"),
        ({"segment_labels": ""}, "differ in length.*0 segment labels"),
        ({"image": "COCO_val_"}, "without a key"),
        ({"caption": "7;8"}, "number of fields.*got: 17"),
        ({"boxes": blob(np.full((5, 4), np.nan))}, "box is not finite.*region 0"),
    ],
)
def test_broken_caption_lines_are_refused_with_field_and_line(changed, message):
    with pytest.raises(DataError, match=message) as caught:
        read_caption_line(caption_line(**changed), where="line 12", **SMALL)
    assert str(caught.value.where).startswith("line 12")


def test_tag_lines():
    tags = read_tag_line("391895;0 21 22 2;0 0 0 0;2 3 4 5\r\n")
    assert tags.image == "391895"
    assert tags.ids.tolist() == [0, 21, 22, 2] and tags.positions.tolist() == [2, 3, 4, 5]
    with pytest.raises(DataError, match=r"line 1.*got: 3.*image; token ids"):
        read_tag_line("391895;0 2;0 0", where="line 1")
    with pytest.raises(DataError, match="differ in length"):
        read_tag_line("391895;0 2;0 0;2")
