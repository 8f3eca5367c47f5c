"""Views of an image are pure functions of their generator; each option does what it says, and no more."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from unimo.data.augment import Views, recolour, resize, view
from unimo.rng import generator


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (36, 36, 3)).astype(np.uint8)


WILD = Views(crop=0.3, flip=0.5, jitter=0.4, grey=0.2)


def test_equal_names_give_equal_views_and_other_names_other_views(image):
    first, again, other = (view(image, 32, WILD, generator("view", name)) for name in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.shape == (3, 32, 32) and first.dtype == np.uint8 and first.flags.c_contiguous


def test_no_options_show_the_whole_image_untouched(image):
    assert np.array_equal(view(image, 36, Views(), generator(0)), image.transpose(2, 0, 1))


def test_flip_is_a_left_right_mirror_with_its_chance(image):
    plain, mirrored = image.transpose(2, 0, 1), image[:, ::-1].transpose(2, 0, 1)
    assert np.array_equal(view(image, 36, Views(flip=1.0), generator(0)), mirrored)
    shown = [view(image, 36, Views(flip=0.25), generator("flip", i)) for i in range(400)]
    assert all(np.array_equal(v, plain) or np.array_equal(v, mirrored) for v in shown)
    assert 0.18 < np.mean([np.array_equal(v, mirrored) for v in shown]) < 0.32


def test_grey_has_three_equal_channels_and_keeps_brightness(image):
    grey = view(image, 36, Views(grey=1.0), generator(0)).astype(int)
    assert (grey[0] == grey[1]).all() and (grey[1] == grey[2]).all()
    assert np.abs(grey[0] - image.mean(2)).max() <= 1


def test_recolouring_with_strengths_of_one_changes_nothing_but_rounding(image):
    planes = image.transpose(2, 0, 1)
    assert np.abs(recolour(planes, np.ones(3), False).astype(int) - planes).max() <= 1
    brighter = recolour(planes // 2, np.array([1.5, 1.0, 1.0]), False)
    assert abs(brighter.mean() / (planes // 2).mean() - 1.5) < 0.02


def test_options_do_not_shift_the_luck_of_others(image):
    """Switching colour on must leave crops and flips where they were."""
    for i in range(20):
        plain = view(image, 32, Views(crop=0.3, flip=0.5), generator(i))
        grey = view(image, 32, Views(crop=0.3, flip=0.5, grey=1.0), generator(i))
        assert np.abs(grey[0].astype(int) - plain.mean(0)).max() <= 1


def test_crops_keep_at_least_their_share_and_stay_inside():
    """On an image whose value is its column, a crop shows a run of columns: its span is its width."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3)).copy()
    views = Views(crop=0.3)
    widths, heights = [], []
    for i in range(200):
        seen = view(ramp, 50, views, generator(i)).astype(float)
        upright = view(ramp.transpose(1, 0, 2).copy(), 50, views, generator(i)).astype(float)
        widths.append((seen.max() - seen.min() + 4) / 200)
        heights.append((upright.max() - upright.min() + 4) / 200)
    share = np.array(widths) * np.array(heights)
    assert share.min() > 0.25 and share.max() < 1.1 and share.std() > 0.1


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (37, 64), (64, 64)])
def test_every_shape_is_squeezed_to_the_square(size):
    squeezed = resize(Image.new("RGB", size, (10, 20, 30)), 32)
    assert squeezed.shape == (32, 32, 3) and (squeezed == [10, 20, 30]).all()
    assert view(squeezed, 32, replace(WILD, jitter=0.0), generator(0)).shape == (3, 32, 32)


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (20, 300), (640, 480), (17, 400)])
def test_usual_images_are_squeezed_in_the_published_order(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    wide = image.resize((32, size[1]), Image.Resampling.BICUBIC)
    assert np.array_equal(resize(image, 32), np.asarray(wide.resize((32, 32), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("size", [(1, 200_000), (3, 60_000), (200_000, 1), (16, 50_000), (31, 31)])
def test_case_what_stands_between_two_resizes_is_no_larger_than_what_stands_around_them(size, monkeypatch):
    image = Image.new("RGB", size, (10, 20, 30))
    made = []
    real = Image.Image.resize

    def counted(self, to, *args, **kwargs):
        made.append(to[0] * to[1])
        return real(self, to, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", counted)
    assert (resize(image, 32) == [10, 20, 30]).all()
    assert sum(made) <= size[0] * size[1] + 17 * 32 * 32


def test_both_orders_show_the_same_image():
    y = np.arange(20_000)
    column = (128 + 100 * np.sin(y / 3000)).astype(np.uint8)
    image = Image.fromarray(np.repeat(np.repeat(column[:, None], 2, 1)[..., None], 3, 2))
    sheet = image.resize((32, 20_000), Image.Resampling.BICUBIC).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.abs(resize(image, 32).astype(int) - np.asarray(sheet, int)).max() <= 2
