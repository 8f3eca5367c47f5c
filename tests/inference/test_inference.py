"""The loaded model's answers: the same however inputs are batched, and what the parts below say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_unimo2 import lively_model, random_images

from unimo.data.records import seq2seq_record
from unimo.data.regions import image_regions
from unimo.errors import DataError, UsageError
from unimo.inference import Pipeline, load
from unimo.model.unimo import UNIMO
from unimo.model.unimo2 import Released
from unimo.tokenizer import Tokenizer

TEXTS = ["a dog", "two cats sleep on a red sofa beside the window", "", "Ünïcode ☃", "a dog runs"]
PAIRS = np.array([[i, t] for i in range(3) for t in range(5)])


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(lively_model(vocabulary=Tokenizer.vocab_size), precision="fp32")


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [image.permute(1, 2, 0).numpy() for image in random_images(5, side=23)]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_answers_do_not_depend_on_the_batch_size(pipeline, images, batch):
    size, one = {"batch_size": batch}, pipeline
    encoded, texts = one.encode_images(images), one.encode_texts(TEXTS)
    other_images, other_texts = one.encode_images(images, **size), one.encode_texts(TEXTS, **size)
    for name in ("hidden", "embedding", "votes"):
        torch.testing.assert_close(getattr(encoded, name), getattr(other_images, name), rtol=0, atol=2e-5)
        torch.testing.assert_close(getattr(texts, name), getattr(other_texts, name), rtol=0, atol=2e-5)
    np.testing.assert_array_equal(one.encoder.codes(encoded, None), one.encoder.codes(other_images, None))
    np.testing.assert_array_equal(one.encoder.codes(None, texts), one.encoder.codes(None, other_texts))
    scores = one.match(encoded, texts, PAIRS)
    np.testing.assert_allclose(scores, one.match(other_images, other_texts, PAIRS, **size), rtol=0, atol=2e-5)
    np.testing.assert_allclose(scores[::-1], one.match(encoded, texts, PAIRS[::-1], **size), rtol=0, atol=2e-5)
    np.testing.assert_allclose(one.similarity(images, TEXTS), one.similarity(images, TEXTS, **size), atol=2e-5)
    assert one.caption(images, max_length=6) == one.caption(images, max_length=6, **size)
    assert one.caption(images, max_length=6, num_beams=3) == one.caption(images, max_length=6, num_beams=3, **size)
    classes = ["dog", "cat", "owl"]
    np.testing.assert_allclose(one.classify(images, classes), one.classify(images, classes, **size), atol=1e-4)


def test_embeddings_are_unit_length_and_similarity_is_their_cosine(pipeline, images):
    model = pipeline
    image, text = model.encode_image(images), model.encode_text(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, atol=1e-5)
    cosine = model.similarity(images, TEXTS)
    assert cosine.shape == (5, 5) and np.ptp(cosine) > 0.01
    np.testing.assert_allclose(cosine[3, 1], float(image[3] @ text[1]), atol=1e-6)


def test_every_kind_of_image_reads_the_same(pipeline, images, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(images[0]).save(path)
    planes = torch.from_numpy(images[0]).permute(2, 0, 1)
    kinds = [images[0], Image.fromarray(images[0]), str(path), path, path.read_bytes(), planes, planes / 255]
    embeddings = pipeline.encode_image(kinds)
    for embedding in embeddings[1:]:
        np.testing.assert_allclose(embedding, embeddings[0], atol=1e-5)


def test_an_open_image_reads_like_its_file(pipeline, images, tmp_path):
    """Transparency over white, 16 bits scaled and not clipped, EXIF upright."""
    rows = np.linspace(0, 65535, 23 * 9).astype(np.uint16).reshape(23, 9)
    colour, turned = Image.fromarray(images[0]), Image.Exif()
    turned[0x0112] = 6
    colour.save(tmp_path / "turned.jpg", exif=turned)
    Image.fromarray(rows).save(tmp_path / "deep.png")
    colour.putalpha(Image.fromarray((rows >> 8).astype(np.uint8)).resize(colour.size))
    colour.save(tmp_path / "clear.png")
    for path in sorted(tmp_path.iterdir()):
        seen, read = pipeline.encode_image([Image.open(path), path])
        np.testing.assert_allclose(seen, read, atol=1e-5, err_msg=path.name)
    (tmp_path / "torn.png").write_bytes((tmp_path / "clear.png").read_bytes()[:200])
    with pytest.raises(DataError, match=r"cannot decode.*torn\.png"):
        pipeline.encode_image([Image.open(tmp_path / "torn.png")])


def test_what_is_no_image_or_text_is_said_so(pipeline, images):
    model, several = pipeline, pytest.raises(UsageError, match="a list of")
    for ask in (
        lambda: model.similarity("photo.png", ["a dog"]),
        lambda: model.similarity(images[0], ["a dog"]),
        lambda: model.similarity(Image.fromarray(images[0]), ["a dog"]),
        lambda: model.similarity(images, "a dog"),
        lambda: model.classify(images, "dog"),
        lambda: model.classify(images, ["dog"], prompts="a {}"),
        lambda: model.generate("a dog"),
        lambda: model.caption("photo.png"),
    ):
        with several:
            ask()
    planes = torch.zeros(3, 8, 8)
    tensors = [[planes[0]], [planes - 1], [planes * torch.nan], [planes.long()], [torch.zeros(3, 0, 8)], [5]]
    for wrong in ([images[0].transpose(2, 0, 1)], [images[0] / 255], [images[0][:0]], [images], *tensors):
        with pytest.raises(UsageError, match=r"not an image.*\(H, W, 3\)"):
            model.encode_image(wrong)
    for text in (5, None, ["a dog"]):
        with pytest.raises(UsageError, match="not a text"):
            model.encode_text([text])
    for ids in ([-1], [Tokenizer.vocab_size], [0.5], [[5]]):
        with pytest.raises(UsageError, match="not token ids"):
            model.encode_text([np.array(ids)])
    for given in (None, 5, {"a dog"}, {"a dog": 1}):
        with pytest.raises(UsageError, match="no list of"):
            model.encode_text(given)
        with pytest.raises(UsageError, match="no list of"):
            model.encode_image(given)
    with pytest.raises(UsageError, match="not a path"):
        model.encode_image(["https://example.org/dog.jpg"])
    with pytest.raises(UsageError, match="not a text"):
        model.fill_mask(5)
    with pytest.raises(UsageError, match="2 and 5"):
        model.fill_masks(["a [MASK]"] * 2, images)
    assert model.fill_masks([]) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_beams": 0}, "num_beams"), ({"num_beams": "3"}, "num_beams"), ({"max_length": 0}, "max_length"),
        ({"min_length": 20, "max_length": 5}, "min_length"), ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
        ({"temperature": float("nan")}, "temperature"), ({"temperature": 1.0, "num_beams": 3}, "num_beams"),
        ({"top_p": 0.9}, "temperature"), ({"top_k": 3}, "temperature"), ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "4"}, "batch_size"),
    ],
)  # fmt: skip
def test_options_that_would_be_ignored_or_break_are_refused(pipeline, images, options, named):
    with pytest.raises(UsageError, match=named):
        pipeline.caption(images, **options)


@pytest.mark.parametrize("size", [0, -1, "4", None, 2.5])
def test_a_batch_size_is_a_whole_number(pipeline, images, size):
    for ask in (pipeline.encode_text, lambda texts, **more: pipeline.itm_score(images, texts, **more)):
        with pytest.raises(UsageError, match="batch_size"):
            ask(["a dog"], batch_size=size)
    with pytest.raises(UsageError, match="top_k"):
        pipeline.fill_mask("a [MASK]", top_k=-1)


def test_pairs_name_what_was_encoded(pipeline, images):
    seen, read = pipeline.encode_images(images), pipeline.encode_texts(["a dog", "a cat"])
    for pairs in ([[5, 0]], [[0, 2]], [[-1, 0]], [0, 1], [[0, 1, 1]], [[0.0, 1.0]]):
        for score in (pipeline.match, pipeline.match_by_likelihood, pipeline.caption_log_likelihood):
            with pytest.raises(UsageError, match="not pairs of these"):
                score(seen, read, np.array(pairs))
    for given in ((read, seen), (images, read), (seen, ["a dog"])):
        with pytest.raises(UsageError, match="not encoded"):
            pipeline.match(*given, np.array([[0, 0]]))


def test_grey_and_transparent_arrays_are_images(pipeline, images):
    """As the same pixels are in a PNG."""
    grey, clear = images[0][..., 0], np.dstack([images[0], images[0][..., :1]])
    expected = pipeline.encode_image([Image.fromarray(grey), Image.fromarray(grey), Image.fromarray(clear)])
    np.testing.assert_array_equal(pipeline.encode_image([grey, grey[..., None], clear]), expected)


def test_class_probabilities_come_from_the_mean_of_the_prompts(pipeline, images):
    model, names, prompts = pipeline, ["dog", "cat"], ("{}", "a photo of {}")
    probabilities = model.classify(images, names, prompts=prompts)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    image = model.encode_image(images)
    weights = []
    for name in names:
        mean = np.mean([model.encode_text([prompt.format(name)])[0] for prompt in prompts], axis=0)
        weights.append(mean / np.linalg.norm(mean))
    logits = image @ np.stack(weights).T / 0.07
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)


def test_fill_mask_ranks_the_pieces_of_one_blank(pipeline, images):
    model = pipeline
    best = model.fill_mask("a red [MASK] on the left", top_k=4)
    assert len(best) == 4 and all(0 <= p <= 1 for _, p in best)
    assert [p for _, p in best] == sorted((p for _, p in best), reverse=True)
    with_image = model.fill_mask("a red [MASK] on the left", images[0], top_k=4)
    assert with_image != best  # an image beside it counts
    for text in ("no blank", "[MASK] and [MASK]"):
        with pytest.raises(UsageError, match="one"):
            model.fill_mask(text)
    with pytest.raises(UsageError, match=r"longer than the model reads.*at most 62"):
        model.fill_mask("word " * 500 + "[MASK]")


def test_words_that_are_never_written_say_nothing_of_an_image(tools, images):
    """By likelihood; what is left is the contrastive score."""
    pipeline = tools.random_pipeline()
    tokenizer, texts = pipeline.tokenizer, ["a dog", "a cat"]
    known = {tokenizer.cls, tokenizer.sep, *tokenizer.encode("a dog")}
    pipeline.model.know_words(torch.tensor(sorted(known)))
    seen, read = pipeline.encode_images(images[:2]), pipeline.encode_texts(texts)
    pairs = np.array([[0, 0], [0, 1], [1, 1]])
    expected = pipeline.matcher.cosine_score((seen.embedding @ read.embedding.T).numpy())
    for beside in (None, seen):
        scores = pipeline.match_by_likelihood(seen, read, pairs, beside=beside)
        np.testing.assert_allclose(scores[1:], expected[:, 1], rtol=0, atol=1e-4)
        assert abs(scores[0] - expected[0, 0]) > 1e-3


def test_the_blank_takes_the_space_before_it(pipeline):
    """A piece carries the space before it, so the row must be the one the whole sentence would give."""
    model, tokenizer = pipeline, Tokenizer.default()
    ids, place = model.mask_filler.row_of("a red [MASK] on the left")
    whole = tokenizer.encode("a red circle on the left")
    assert ids.tolist() == [0, *whole[:2], tokenizer.mask, *whole[3:], 2] and place == 3


def test_masked_words_are_probabilities_at_the_places(pipeline):
    model = pipeline
    ids = model.encoder.frame("a dog runs on the beach")
    probabilities = model.mask_filler.probabilities(ids, np.array([1, 3, 5]), None)
    assert probabilities.shape == (3, Tokenizer.vocab_size)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)
    np.testing.assert_allclose(
        model.mask_filler.probabilities(ids, np.array([3]), None)[0], probabilities[1], atol=1e-6
    )


def test_long_texts_are_cut_to_the_position_table(pipeline):
    model = pipeline
    row = model.encoder.frame("word " * 500)
    assert len(row) == 62 and row[0] == 0 and row[-1] == 2  # 64 positions, of which 2 .. 63 are used
    assert model.encode_text(["word " * 500]).shape == (1, 16)
    ids = np.arange(10, 20)
    np.testing.assert_array_equal(model.encoder.frame(ids), [0, *ids, 2])


def test_captions_hold_no_special_tokens(pipeline, images):
    for sentence in pipeline.caption(images, max_length=8, min_length=3):
        assert sentence == " ".join(sentence.split()) and not set("[]<>") & set(sentence)


def test_a_model_without_a_dictionary_has_no_codes_but_answers(images):
    model = Pipeline(lively_model(vocabulary=Tokenizer.vocab_size, dictionary=0), precision="fp32")
    encoded, texts = model.encode_images(images), model.encode_texts(TEXTS)
    assert model.encoder.codes(encoded, None) is None and model.encoder.codes(None, texts) is None
    assert np.isfinite(model.match(encoded, texts, PAIRS)).all()


def test_nothing_given_is_said_so(pipeline):
    for ask in (pipeline.encode_images, pipeline.encode_texts):
        with pytest.raises(UsageError, match="at least one"):
            ask([])


def test_write_continues_a_source_and_tags_change_a_caption(pipeline, images):
    model = pipeline
    asked = {"max_length": 6, "min_length": 6}
    texts = model.generate(["a red circle", "two dogs play"], **asked)
    assert texts == [model.generate([source], **asked)[0] for source in ("a red circle", "two dogs play")]
    ids = np.asarray(Tokenizer.default().encode("a red circle"))
    assert model.generate([ids], **asked) == texts[:1]
    record = seq2seq_record([ids], None, max_source_length=20, max_target_length=5)
    assert model.generate([record], **asked) == texts[:1]
    tagged = model.caption(images[:2], tags=["dog", "red circle"], **asked)
    assert tagged != model.caption(images[:2], **asked)
    assert tagged[1] == model.caption(images[1:2], tags=["red circle"], **asked)[0]
    with pytest.raises(UsageError, match="differ in number"):
        model.caption(images, tags=["dog"])
    with pytest.raises(UsageError, match="nothing to write from"):
        model.generate()


def test_no_three_words_stand_twice_where_that_is_forbidden(pipeline, images):
    """With room in the beam; where every proposal repeats, the published rule lets one through."""

    def threes(sentence):
        words = sentence.split()
        return list(zip(words, words[1:], words[2:]))

    asked = {"max_length": 14, "min_length": 14, "num_beams": 8}
    free = pipeline.caption(images, **asked)
    strict = pipeline.caption(images, no_repeat_ngram_size=3, **asked)
    assert any(len(set(threes(sentence))) < len(threes(sentence)) for sentence in free)
    assert all(len(set(threes(sentence))) == len(threes(sentence)) for sentence in strict)


def test_released_padding_votes_and_the_released_score(images):
    """As published, a caption's entries depend on what it is padded to; ours do not. The score is one logit + 0.3 x."""
    options = {"vocabulary": Tokenizer.vocab_size}
    short, long = "a dog", "a dog runs on the beach and another dog looks at the sea"
    ours = Pipeline(lively_model(**options), precision="fp32")
    released = Pipeline(lively_model(**options, released=Released(*[True] * 4)), precision="fp32")
    for model, same in ((ours, True), (released, False)):
        alone, with_image = model.encode_texts([short]), model.encode_texts([short, long])
        assert np.allclose(alone.votes[0], with_image.votes[0], atol=1e-4) == same
    encoded, texts = released.encode_images(images[:1]), released.encode_texts([short])
    pair = np.array([[0, 0]])
    raw = released.match(encoded, texts, pair, cosine_weight=0.0)
    assert not np.isclose(float(texts.embedding.norm()), 1.0)
    product = float(encoded.embedding[0] @ texts.embedding[0])
    np.testing.assert_allclose(released.match(encoded, texts, pair), raw + 0.3 * product, rtol=1e-5)


def test_unimo_answers_from_regions(images):
    torch.manual_seed(0)
    model = UNIMO(width=16, heads=2, depth=2, region_size=6, positions=64, matching=2, initial_std=0.3)
    unimo, rng = Pipeline(model, precision="fp32"), np.random.default_rng(0)
    boxes = [[0, 0, 5, 5], [2, 2, 9, 9], [1, 0, 4, 8]]
    seen = [image_regions(rng.normal(size=(n, 6)).astype(np.float32), boxes[:n], 10, 10) for n in (1, 3, 2)]
    encoded, texts = unimo.encode_images(seen), unimo.encode_texts(TEXTS)
    assert encoded.lengths.tolist() == [2, 4, 3]
    np.testing.assert_allclose(encoded.embedding.norm(dim=-1), 1.0, rtol=1e-5)
    for i, one in enumerate(seen):
        np.testing.assert_allclose(unimo.encode_images([one]).embedding[0], encoded.embedding[i], atol=1e-5)
    pairs = np.array([[0, 0], [1, 0], [2, 1]])
    scores = unimo.match(encoded, texts, pairs)
    np.testing.assert_allclose(unimo.match(encoded, texts, pairs[1:2]), scores[1:2], atol=1e-5)
    assert unimo.caption(seen, max_length=5, min_length=5) == [
        unimo.caption([one], max_length=5, min_length=5)[0] for one in seen
    ]
    assert unimo.encoder.codes(encoded, None) is None
    assert unimo.fill_mask("a red [MASK] on", seen[0]) != unimo.fill_mask("a red [MASK] on")
    with pytest.raises(UsageError, match="pixels"):
        unimo.encode_images(images)
    with pytest.raises(UsageError, match="regions"):
        Pipeline(lively_model(), precision="fp32").encode_images(seen)


def test_images_may_be_larger_than_the_table_was_made_for(images):
    model = Pipeline(lively_model(vocabulary=Tokenizer.vocab_size, image_size=16, pixels=32), precision="fp32")
    per_side = 32 // model.model.patches.patch
    assert model.encode_images(images).hidden.shape[1] == 1 + per_side**2 > 1 + model.model.patches.grid**2


def test_raw_inputs_are_scored_as_their_states_and_tensors_come_out_on_wish(pipeline, images):
    """`itm_score` is `match` of every image with every text; `encode_*` give the same numbers as tensors."""
    model = pipeline
    scores = model.itm_score(images[:2], TEXTS)
    pairs = np.array([(i, t) for i in range(2) for t in range(len(TEXTS))])
    expected = model.match(model.encode_images(images[:2]), model.encode_texts(TEXTS), pairs)
    np.testing.assert_allclose(scores, expected.reshape(2, -1), rtol=0, atol=1e-6)
    for name, given in (("encode_image", images), ("encode_text", TEXTS)):
        encode = getattr(model, name)
        assert torch.equal(encode(given, convert_to_tensor=True).cpu(), torch.from_numpy(encode(given)))


def test_threads_may_share_a_model(pipeline, images):
    """Every call sees the model and its own arguments alone."""
    jobs = [
        lambda: pipeline.similarity(images, TEXTS, batch_size=2).tolist(),
        lambda: pipeline.caption(images, max_length=5, num_beams=2),
        lambda: pipeline.fill_mask("a red [MASK]", images[0]),
        lambda: pipeline.itm_score(images, TEXTS).tolist(),
    ] * 3
    alone = [job() for job in jobs[:4]] * 3
    with ThreadPoolExecutor(6) as pool:
        assert [future.result() for future in [pool.submit(job) for job in jobs]] == alone


def test_a_model_says_what_it_is(pipeline):
    said = str(pipeline)
    assert said.startswith("UNIMO-2") and f"{sum(p.numel() for p in pipeline.model.parameters()):,}" in said
    assert "16 x 16 pixels" in said and "at most 62 tokens" in said and "cpu, float32" in said
    with pytest.raises(UsageError, match="device cannot be used"):
        load("runs/x", device="tpu")
    with pytest.raises(UsageError, match="fp16 is for GPUs"):
        Pipeline(pipeline.model, precision="fp16")


def test_a_caption_can_be_sampled(pipeline, images):
    model, options = pipeline, {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "max_length": 8}
    assert model.caption(images, seed=1, **options) == model.caption(images, seed=1, **options)
    assert any(
        model.caption(images, seed=1, **options) != model.caption(images, seed=s, **options) for s in range(2, 5)
    )
