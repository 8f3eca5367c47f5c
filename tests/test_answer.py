"""The loaded model's answers: the same however inputs are batched, and what the parts below say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model.tiny_unimo2 import lively_model, random_pictures
from PIL import Image

from unimo.answer import Answerer
from unimo.errors import UsageError
from unimo.tokenizer import Tokenizer

TEXTS = ["a dog", "two cats sleep on a red sofa beside the window", "", "Ünïcode ☃", "a dog runs"]
PAIRS = np.array([[i, t] for i in range(3) for t in range(5)])


@pytest.fixture(scope="module")
def answerer():
    """batch size -> the same tiny model behind an Answerer of that batch size."""
    model = lively_model(vocabulary=Tokenizer.vocab_size)
    return lambda batch=64: Answerer(model, precision="fp32", batch=batch)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [picture.permute(1, 2, 0).numpy() for picture in random_pictures(5, side=23)]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_answers_do_not_depend_on_the_batch_size(answerer, pictures, batch):
    one, other = answerer(64), answerer(batch)
    images, texts = one.encode_images(pictures), one.encode_texts(TEXTS)
    other_images, other_texts = other.encode_images(pictures), other.encode_texts(TEXTS)
    for name in ("hidden", "embedding", "votes"):
        torch.testing.assert_close(getattr(images, name), getattr(other_images, name), rtol=0, atol=2e-5)
        torch.testing.assert_close(getattr(texts, name), getattr(other_texts, name), rtol=0, atol=2e-5)
    np.testing.assert_array_equal(one.codes(images, None), other.codes(other_images, None))
    np.testing.assert_array_equal(one.codes(None, texts), other.codes(None, other_texts))
    scores = one.match(images, texts, PAIRS)
    np.testing.assert_allclose(scores, other.match(other_images, other_texts, PAIRS), rtol=0, atol=2e-5)
    np.testing.assert_allclose(scores[::-1], other.match(images, texts, PAIRS[::-1]), rtol=0, atol=2e-5)
    np.testing.assert_allclose(one.similarity(pictures, TEXTS), other.similarity(pictures, TEXTS), atol=2e-5)
    assert one.caption(pictures, longest=6) == other.caption(pictures, longest=6)
    assert one.caption(pictures, longest=6, beams=3) == other.caption(pictures, longest=6, beams=3)
    classes = ["dog", "cat", "owl"]
    np.testing.assert_allclose(one.classify(pictures, classes), other.classify(pictures, classes), atol=1e-4)


def test_embeddings_are_unit_length_and_similarity_is_their_cosine(answerer, pictures):
    model = answerer()
    image, text = model.embed_image(pictures), model.embed_text(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, atol=1e-5)
    cosine = model.similarity(pictures, TEXTS)
    assert cosine.shape == (5, 5) and np.ptp(cosine) > 0.01
    np.testing.assert_allclose(cosine[3, 1], float(image[3] @ text[1]), atol=1e-6)


def test_every_kind_of_picture_reads_the_same(answerer, pictures, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(pictures[0]).save(path)
    kinds = [pictures[0], Image.fromarray(pictures[0]), str(path), path, path.read_bytes()]
    embeddings = answerer().embed_image(kinds)
    for embedding in embeddings[1:]:
        np.testing.assert_allclose(embedding, embeddings[0], atol=1e-5)


def test_class_probabilities_come_from_the_mean_of_the_prompts(answerer, pictures):
    model, names, prompts = answerer(), ["dog", "cat"], ("{}", "a photo of {}")
    probabilities = model.classify(pictures, names, prompts=prompts)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    image = model.embed_image(pictures)
    weights = []
    for name in names:
        mean = np.mean([model.embed_text([prompt.format(name)])[0] for prompt in prompts], axis=0)
        weights.append(mean / np.linalg.norm(mean))
    logits = image @ np.stack(weights).T / 0.07
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)


def test_fill_mask_ranks_the_pieces_of_one_blank(answerer, pictures):
    model = answerer()
    best = model.fill_mask("a red [MASK] on the left", top=4)
    assert len(best) == 4 and all(0 <= p <= 1 for _, p in best)
    assert [p for _, p in best] == sorted((p for _, p in best), reverse=True)
    beside = model.fill_mask("a red [MASK] on the left", pictures[0], top=4)
    assert beside != best  # a picture beside it counts
    for text in ("no blank", "[MASK] and [MASK]"):
        with pytest.raises(UsageError, match="one"):
            model.fill_mask(text)


def test_the_blank_takes_the_space_before_it(answerer):
    """A piece carries the space before it, so the row must be the one the whole sentence would give."""
    model, tokenizer, seen = answerer(), Tokenizer.default(), []
    masked_words = model.masked_words
    model.masked_words = lambda ids, places, picture=None: seen.append((ids, places)) or masked_words(ids, places)
    model.fill_mask("a red [MASK] on the left")
    ids, places = seen[0]
    whole = tokenizer.encode("a red circle on the left")
    assert ids.tolist() == [0, *whole[:2], tokenizer.mask, *whole[3:], 2] and places.tolist() == [3]


def test_masked_words_are_probabilities_at_the_places(answerer):
    model = answerer()
    ids = model.frame("a dog runs on the beach")
    probabilities = model.masked_words(ids, np.array([1, 3, 5]))
    assert probabilities.shape == (3, Tokenizer.vocab_size)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)
    np.testing.assert_allclose(model.masked_words(ids, np.array([3]))[0], probabilities[1], atol=1e-6)


def test_long_texts_are_cut_to_the_position_table(answerer):
    model = answerer()
    row = model.frame("word " * 500)
    assert len(row) == 62 and row[0] == 0 and row[-1] == 2  # 64 positions, of which 2 .. 63 are used
    assert model.embed_text(["word " * 500]).shape == (1, 16)
    ids = np.arange(10, 20)
    np.testing.assert_array_equal(model.frame(ids), [0, *ids, 2])


def test_captions_hold_no_special_tokens(answerer, pictures):
    for sentence in answerer().caption(pictures, longest=8, shortest=3):
        assert sentence == " ".join(sentence.split()) and not set("[]<>") & set(sentence)


def test_a_model_without_a_dictionary_has_no_codes_but_answers(pictures):
    model = Answerer(lively_model(vocabulary=Tokenizer.vocab_size, dictionary=0), precision="fp32")
    images, texts = model.encode_images(pictures), model.encode_texts(TEXTS)
    assert model.codes(images, None) is None and model.codes(None, texts) is None
    assert np.isfinite(model.match(images, texts, PAIRS)).all()


def test_nothing_given_is_said_so(answerer):
    for ask in (answerer().encode_images, answerer().encode_texts):
        with pytest.raises(UsageError, match="at least one"):
            ask([])


def test_match_is_the_matching_head_and_a_share_of_the_cosine(answerer, pictures):
    model = answerer()
    images, texts = model.encode_images(pictures), model.encode_texts(TEXTS)
    with_cosine, without = (model.match(images, texts, PAIRS, cosine_weight=w) for w in (0.3, 0.0))
    cosine = F.cosine_similarity(images.hidden[PAIRS[:, 0], 0], texts.hidden[texts.texts.offsets[PAIRS[:, 1]]])
    np.testing.assert_allclose(with_cosine - without, 0.3 * cosine.numpy(), atol=1e-4)
    assert np.ptp(without) > 1e-3
