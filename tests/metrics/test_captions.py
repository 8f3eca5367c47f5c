"""Three second opinions: the formulas written out plainly, other libraries, stored coco-caption scores."""

import json
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from random_cases import WORDS, corpora
from rouge_score.rouge_scorer import _lcs_table

from unimo.errors import DataError
from unimo.metrics import captions
from unimo.metrics.captions import (
    bleu,
    bleu_as_released,
    bleu_of_sums,
    bleu_sums_each,
    caption_report,
    cider_d,
    cider_d_each,
    rouge_l,
    rouge_l_each,
)
from unimo.metrics.lcs import lcs_length

FIXTURES = Path(__file__).parent / "fixtures"
COCO = json.loads((FIXTURES / "coco_caption_scores.json").read_text("utf-8"))
THOUSAND = json.loads((FIXTURES / "pycocoevalcap_1000.json").read_text("utf-8"))


def random_corpus(seed, images=None):
    r = random.Random(seed)

    def sentence():
        return [r.choice(WORDS) for _ in range(r.randint(1, 12))]

    images = images or r.randint(2, 12)
    return [sentence() for _ in range(images)], [[sentence() for _ in range(r.randint(1, 5))] for _ in range(images)]


def grams(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def plain_bleu(candidates, references, order):
    log_sum, length, wanted_length = 0.0, 0, 0
    for candidate, wanted in zip(candidates, references):
        length += len(candidate)
        wanted_length += min((abs(len(w) - len(candidate)), len(w)) for w in wanted)[1]
    for n in range(1, order + 1):
        matched = offered = 0
        for candidate, wanted in zip(candidates, references):
            for gram, count in grams(candidate, n).items():
                matched += min(count, max(grams(w, n)[gram] for w in wanted))
                offered += count
        if matched == 0:
            return 0.0
        log_sum += math.log(matched / offered)
    return math.exp(log_sum / order) * min(1.0, math.exp(1 - wanted_length / length))


def plain_cider_d(candidates, references):
    def weights(words, n):
        vector = {}
        for gram, count in grams(words, n).items():
            images = sum(any(gram in grams(w, n) for w in wanted) for wanted in references)
            vector[gram] = count * math.log(len(references) / max(1, images))
        return vector

    def norm(vector):
        return math.sqrt(sum(v * v for v in vector.values()))

    scores = []
    for candidate, wanted in zip(candidates, references):
        total = 0.0
        for n in range(1, 5):
            own = weights(candidate, n)
            for w in wanted:
                other = weights(w, n)
                dot = sum(min(own[g], other.get(g, 0.0)) * other.get(g, 0.0) for g in own)
                size = norm(own) * norm(other)
                total += (dot / size if size else 0) * math.exp(-((len(candidate) - len(w)) ** 2) / (2 * 36))
        scores.append(10 * total / 4 / len(wanted))
    return scores


def plain_lcs(a, b):
    best = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            best[i, j] = best[i - 1, j - 1] + 1 if x == y else max(best[i - 1, j], best[i, j - 1])
    return int(best[-1, -1])


def plain_rouge_l(candidate, wanted):
    p = max(plain_lcs(candidate, w) / len(candidate) for w in wanted)
    r = max(plain_lcs(candidate, w) / len(w) for w in wanted)
    return (1 + 1.2**2) * p * r / (r + 1.2**2 * p) if p and r else 0.0


def point_bleu(candidates, references):
    """BLEU-1..4 without their intervals, which a thousand cases have no time for."""
    totals = bleu_sums_each(candidates, references).sum(axis=0, keepdims=True)
    return [float(bleu_of_sums(totals, order)[0]) for order in range(1, 5)]


def bleu_with_coco_smoothing(candidates, references):
    """What coco-caption makes of the same sums: 1e-15 on matches and length, 1e-9 on what they are divided by."""
    sums = bleu_sums_each(candidates, references).sum(axis=0)
    product = np.cumprod((sums[:4] + 1e-15) / (sums[4:8] + 1e-9))
    ratio = (sums[8] + 1e-15) / (sums[9] + 1e-9)
    return product ** (1 / np.arange(1, 5)) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1)


# ---- against the formulas


@pytest.mark.parametrize("seed", range(30))
def test_all_scores_equal_the_formulas(seed):
    candidates, references = random_corpus(seed)
    scores = bleu(candidates, references)
    for order, point in enumerate(point_bleu(candidates, references), 1):
        assert scores[f"BLEU-{order}"].value == point
        assert point == pytest.approx(plain_bleu(candidates, references, order), abs=1e-12)
    expected = plain_cider_d(candidates, references)
    np.testing.assert_allclose(cider_d_each(candidates, references), expected, atol=1e-12)
    expected = [plain_rouge_l(c, w) for c, w in zip(candidates, references)]
    np.testing.assert_allclose(rouge_l_each(candidates, references), expected, atol=1e-12)


# ---- against other libraries


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_of_a_thousand_corpora_equals_sacrebleu(order):
    # with split words and no smoothing the two conventions coincide
    scorer = sacrebleu.BLEU(tokenize="none", smooth_method="none", force=True, max_ngram_order=order)
    matched = 0
    for candidates, references in corpora(1000):
        streams = [[" ".join(wanted[i]) if i < len(wanted) else None for wanted in references] for i in range(3)]
        theirs = scorer.corpus_score([" ".join(words) for words in candidates], streams).score
        ours = point_bleu(candidates, references)[order - 1]
        assert 100 * ours == pytest.approx(theirs, abs=1e-9)
        matched += ours > 0
    assert matched > 500


def test_released_bleu_equals_sacrebleu_but_for_its_brevity():
    scorer = sacrebleu.BLEU(tokenize="none", smooth_method="none", force=True)
    longer = 0
    for seed in range(200):
        candidates, references = random_corpus(seed)
        references = [wanted[:1] for wanted in references]  # one reference is the shortest and the closest
        theirs = scorer.corpus_score(
            [" ".join(words) for words in candidates], [[" ".join(wanted[0]) for wanted in references]]
        )
        brevity = 1.0
        if theirs.sys_len <= theirs.ref_len:
            brevity = math.exp(1 - 1 / (theirs.sys_len / theirs.ref_len + 1e-4))
        longer += theirs.sys_len > theirs.ref_len
        expected = theirs.score / 100 / theirs.bp * brevity
        assert bleu_as_released(candidates, references) == pytest.approx(expected, abs=1e-12)
    assert 0 < longer < 200


def test_released_bleu_aims_at_the_shortest_reference():
    said, wanted = [["a", "b", "c", "d", "e"]], [["a", "b", "c", "d", "e", "f"], ["x", "y"]]
    assert bleu_as_released(said, [wanted]) == 1.0
    assert bleu_as_released(said, [wanted[:1]]) == pytest.approx(math.exp(1 - 1 / (5 / 6 + 1e-4)))
    assert bleu_as_released([[]], [wanted]) == 0.0


def test_the_common_subsequence_equals_rouge_scores_table():
    r = random.Random(0)
    for _ in range(1000):
        a, b = ([r.choice(WORDS) for _ in range(r.randint(0, 90))] for _ in range(2))
        assert lcs_length(a, b) == _lcs_table(a, b)[len(a)][len(b)]


def test_a_thousand_corpora_score_as_pycocoevalcap_stored_them():
    rows = np.array(THOUSAND["rows"])
    ours, smoothed = np.zeros((2, len(rows), 6))
    for case, (candidates, references) in enumerate(corpora(1000)):
        others = rouge_l_each(candidates, references).mean(), cider_d_each(candidates, references).mean()
        ours[case] = *point_bleu(candidates, references), *others
        smoothed[case] = *bleu_with_coco_smoothing(candidates, references), *others
    np.testing.assert_allclose(smoothed, rows, rtol=1e-10, atol=1e-11)  # stored with twelve digits
    # unsmoothed, as we report: the same where every order has a match, else 0 where theirs is made of the 1e-15
    zero = ours == 0
    np.testing.assert_allclose(ours[~zero], rows[~zero], rtol=1e-8)
    assert 0 < zero[:, :4].mean() < 0.5
    assert (rows[zero] < 0.04).all()


def test_the_stored_scores_are_those_of_pycocoevalcap():
    pytest.importorskip("pycocoevalcap", reason="100 MB, mostly Java: its stored scores are checked instead")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    for row, (candidates, references) in zip(THOUSAND["rows"], corpora(1000)):
        wanted = {i: [" ".join(words) for words in some] for i, some in enumerate(references)}
        said = {i: [" ".join(words)] for i, words in enumerate(candidates)}
        bleus, _ = Bleu(4).compute_score(wanted, said, verbose=0)
        theirs = [*bleus, Rouge().compute_score(wanted, said)[0], Cider().compute_score(wanted, said)[0]]
        np.testing.assert_allclose(row, theirs, rtol=1e-11)


def test_stored_coco_caption_scores_are_reproduced():
    candidates, references = COCO["candidate_words"], COCO["reference_words"]
    ours = [score.value for score in bleu(candidates, references).values()]
    assert ours == pytest.approx(COCO["bleu"], abs=1e-9)
    assert rouge_l(candidates, references).value == pytest.approx(COCO["rouge_l"], abs=1e-12)
    assert cider_d(candidates, references).value == pytest.approx(COCO["cider"], abs=1e-12)
    np.testing.assert_allclose(rouge_l_each(candidates, references), COCO["rouge_l_each"], atol=1e-12)
    np.testing.assert_allclose(cider_d_each(candidates, references), COCO["cider_each"], atol=1e-12)


def test_from_plain_sentences_the_scores_are_the_same():
    report = caption_report(COCO["candidates"], COCO["references"])
    assert [report[f"BLEU-{n}"].value for n in (1, 2, 3, 4)] == pytest.approx(COCO["bleu"], abs=1e-9)
    assert report["ROUGE-L"].value == pytest.approx(COCO["rouge_l"], abs=1e-12)
    assert report["CIDEr-D"].value == pytest.approx(COCO["cider"], abs=1e-12)
    for score in report.values():
        assert score.low < score.value < score.high
        assert score.n == 60


# ---- properties


def test_a_reference_given_back_scores_full_marks():
    _, references = random_corpus(0, images=8)
    references = [[wanted[0] + ["unique", str(i), "ending", "words"]] for i, wanted in enumerate(references)]
    given_back = [wanted[0] for wanted in references]
    assert all(score.value == pytest.approx(1) for score in bleu(given_back, references).values())
    assert rouge_l(given_back, references).value == pytest.approx(1)
    assert cider_d(given_back, references).value == pytest.approx(10)


def test_repeating_a_rare_word_does_not_raise_cider_d():
    references = [[["a", "rare", "zebra", "stands"]], [["a", "dog", "runs", "fast"]]]
    honest = cider_d_each([["a", "zebra", "stands"], ["x"]], references)[0]
    stuffed = cider_d_each([["zebra"] * 3, ["x"]], references)[0]
    assert stuffed < honest


def test_order_of_images_changes_nothing():
    candidates, references = random_corpus(3, images=20)
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_allclose(
        cider_d_each([candidates[i] for i in order], [references[i] for i in order]),
        cider_d_each(candidates, references)[order],
    )


def test_empty_captions_score_zero_and_break_nothing():
    report = caption_report(["", "..."], [["A dog runs."], ["A cat.", ""]])
    assert all(score.value == 0 for score in report.values())


def test_one_image_alone_has_no_rare_words():
    assert cider_d([["a", "dog"]], [[["a", "dog"]]]).value == 0


def test_the_bootstrap_of_bleu_is_the_bleu_of_resamples():
    candidates, references = random_corpus(5, images=40)
    score = bleu(candidates, references)["BLEU-1"]
    rng = np.random.default_rng(9)
    resampled = []
    for _ in range(300):
        chosen = rng.integers(40, size=40)
        resampled.append(plain_bleu([candidates[i] for i in chosen], [references[i] for i in chosen], 1))
    assert (score.low, score.high) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])), abs=0.02)


def test_what_does_not_fit_is_a_located_error():
    with pytest.raises(DataError):
        bleu([["a"]], [])
    with pytest.raises(DataError):
        caption_report([], [])
    with pytest.raises(DataError, match="image 1"):
        rouge_l([["a"], ["b"]], [[["a"]], []])
    with pytest.raises(DataError, match="image 0"):
        cider_d([["a"]], [["a cat"]])  # sentences where word lists belong
    with pytest.raises(DataError, match="tokenise"):
        cider_d(["a cat"], [[["a", "cat"]]])


def test_the_published_constants():
    assert (captions.LONGEST, captions._BETA, captions._SIGMA) == (4, 1.2, 6.0)
