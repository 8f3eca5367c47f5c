"""Duplicates between splits: planted ones are found, all of them, and only those; checked against brute force."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from unimo.corpus.corpus import open_corpus
from unimo.errors import UsageError
from unimo.finetune.example import Example
from unimo.finetune.overlap import difference_hash, image_overlap, split_overlap, text_overlap, texts_of
from unimo.finetune.split import Examples, open_examples


def named(texts, prefix):
    return [(f"{prefix}{i}", text) for i, text in enumerate(texts)]


def jaccard(a, b, n):
    sets = [{tuple(t.split()[i : i + n]) for i in range(len(t.split()) - n + 1)} for t in (a, b)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1]) if all(sets) else 0.0


@pytest.mark.parametrize("least, shingle", [(0.8, 5), (0.5, 2), (1.0, 3), (0.3, 1)])
def test_texts_equal_brute_force(least, shingle):
    """Random texts and edits of them: the search misses none that comparing all with all finds, and adds none."""
    rng = random.Random(0)
    vocabulary = [f"w{i}" for i in range(30)]
    test = [" ".join(rng.choices(vocabulary, k=rng.randrange(1, 40))) for _ in range(120)]
    train = []
    for text in test:
        for edits in range(3):
            words = text.split()
            for _ in range(edits):
                words[rng.randrange(len(words))] = rng.choice(vocabulary)
            train.append(" ".join(words[: rng.randrange(1, len(words) + 1)] if edits == 2 else words))
    train = rng.sample(train, 150) + [" ".join(rng.choices(vocabulary, k=20)) for _ in range(50)]
    exact = sum(text in set(train) for text in test)
    near = sum(
        text not in set(train) and max(jaccard(text, other, shingle) for other in train) >= least for text in test
    )
    found = text_overlap(named(train, "train"), named(test, "test"), least=least, shingle=shingle, keep=1000)
    assert (found.exact, found.near) == (exact, near) and (found.tested, found.trained) == (120, 200)
    for twin in found.twins:
        a, b = test[int(twin.test[4:])], train[int(twin.train[5:])]
        assert (a == b) is twin.exact
        if not twin.exact:  # and of all that are alike enough the likest is named
            assert jaccard(a, b, shingle) == pytest.approx(twin.likeness)
            assert twin.likeness == pytest.approx(max(jaccard(a, other, shingle) for other in train))


def test_case_and_punctuation_do_not_hide_a_copy():
    found = text_overlap([("a", "The dog — it RAN, home")], [("b", "the dog it ran home!"), ("c", "the dog it ran")])
    assert found.exact == 1 and found.near == 0 and found.twins[0][:2] == ("b", "a")
    assert text_overlap([("a", "?!")], [("b", "?!"), ("c", "..."), ("d", "")]).exact == 1


def test_bounds_of_likeness_are_checked():
    for options in ({"least": 0}, {"least": 1.1}, {"shingle": 0}):
        with pytest.raises(UsageError):
            text_overlap([], [], **options)
    with pytest.raises(UsageError):
        image_overlap([], [], bits=32)


def encoded(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def photograph(i, size=96):
    coarse = np.random.default_rng(i).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def test_images_saved_again_are_near_and_others_are_not():
    test = [photograph(i) for i in range(40)]
    changed = [
        ("copy", encoded(test[0])),
        ("jpeg", encoded(test[1], "JPEG", quality=60)),
        ("small", encoded(test[2].resize((50, 50)))),
        ("brighter", encoded(test[3].point(lambda v: min(255, v + 8)))),
        ("mirrored", encoded(test[4].transpose(Image.Transpose.FLIP_LEFT_RIGHT))),
        *((f"other {i}", encoded(photograph(1000 + i))) for i in range(40)),
    ]
    found = image_overlap(changed, [(str(i), encoded(image)) for i, image in enumerate(test)])
    assert (found.exact, found.near) == (1, 3)
    assert [(twin.test, twin.train, twin.exact) for twin in found.twins] == [
        ("0", "copy", True),
        ("1", "jpeg", False),
        ("2", "small", False),
        ("3", "brighter", False),
    ]


def test_all_hashes_within_a_number_of_bits_are_found(monkeypatch):
    """Against comparing all with all, on hashes at every distance from 0 to 8."""
    from unimo.finetune import overlap

    def looked(note, images):
        bits = []
        for name, value in images:
            note(name, name.encode())
            bits.append([1.0 if value >> bit & 1 else -1.0 for bit in range(64)])
        return np.array(bits, np.float32), np.zeros((len(bits), 8, 8, 3), np.int16)

    rng = random.Random(1)
    test = [rng.getrandbits(64) for _ in range(200)]
    train = []
    for value in test:
        for bit in rng.sample(range(64), rng.randrange(9)):
            value ^= 1 << bit
        train.append(value)
    monkeypatch.setattr(overlap, "_looked", looked)
    for bits in range(5):
        expected = sum(any((a ^ b).bit_count() <= bits for b in train) for a in test)
        found = image_overlap(
            [(f"a{i}", v) for i, v in enumerate(train)], [(f"b{i}", v) for i, v in enumerate(test)], bits=bits
        )
        assert found.near == expected and found.exact == 0
        assert 0 < expected < 200


def test_colours_tell_apart_what_the_hash_cannot():
    def square(colour):
        image = Image.new("RGB", (64, 64), "white")
        image.paste(colour, (16, 16, 48, 48))
        return image

    red, blue = square("red"), square("blue")
    assert np.array_equal(difference_hash(red), difference_hash(blue))
    one, other = [("a", encoded(red))], [("b", encoded(blue))]
    assert image_overlap(one, other).near == 0 and image_overlap(one, other, colours=None).near == 1


def test_hash_ignores_size_and_sees_the_direction():
    ramp = Image.fromarray(np.tile(np.arange(255, -1, -1, dtype=np.uint8), (64, 1)))
    assert difference_hash(ramp).all() and difference_hash(ramp.resize((18, 8))).all()
    assert not difference_hash(ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).any()


def test_splits_and_corpora(tmp_path):
    for name, first in (("train", 0), ("test", 3)):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{first + i}.png").write_bytes(encoded(photograph(first + i)))
        lines = [
            f'{{"image": "{first + i}.png", "text": "this is the long text of number {first + i}", "label": "x"}}'
            for i in range(4)
        ]
        (tmp_path / name / "rows.jsonl").write_text("\n".join(lines) + "\n")
    train, test = (open_examples("jsonl", tmp_path / name / "rows.jsonl") for name in ("train", "test"))
    texts, images = split_overlap(train, test)
    assert (texts.what, texts.exact, texts.near) == ("texts", 1, 0)
    assert (images.what, images.exact, images.near, images.tested) == ("images", 1, 0, 4)
    assert images.twins == (("3.png", "3.png", 1.0, True),)

    corpus = open_corpus("images", tmp_path / "train")
    assert [each.what for each in split_overlap(corpus, test)] == ["images"]
    (tmp_path / "book.txt").write_text("It rained. This is the long text of number 5. Nobody came. " * 2)
    read = open_corpus("texts", tmp_path / "book.txt")
    (texts,) = split_overlap(read, test)
    assert texts.exact == 1 and texts.twins[0].test == "rows.jsonl:3"
    with pytest.raises(UsageError):
        next(texts_of(corpus))


def test_captions_are_compared_one_by_one():
    train = Examples("train", [Example("a", (), "k", ("one dog", "two dogs run"))])
    test = Examples("test", [Example("b", (), "l", ("Two dogs run.", "no dog"))])
    (found,) = split_overlap(train, test)
    assert found.tested == 2 and found.twins[0][:2] == ("b#0", "a#1")
