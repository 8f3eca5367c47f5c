"""A masked language model says how well rewritten words fit their sentence."""

from __future__ import annotations

import shutil
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from rewrite_files import FEW, pairs_file, quiet, the_file
from safetensors.torch import load_file, save_file
from tiny_unimo2 import lively_model

from unimo.corpus.corpus import open_corpus
from unimo.errors import DataError
from unimo.inference import Pipeline
from unimo.inference import model as inference
from unimo.rewriting import masked_language_model as module
from unimo.rewriting.masked_language_model import open_masked_lm
from unimo.rewriting.prepare import rewrites
from unimo.rewriting.rewrite import Change, Rewrite
from unimo.rewriting.store import Rewrites
from unimo.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")
SENTENCES = [f"a {who} {does} ." for who, does in (("dog", "barks"), ("cat", "meows"), ("cow", "moos"))]


def save_bert(folder, texts, *, steps: int = 0, kind: str = "BertForMaskedLM", length: int = 40, mask="[MASK]"):
    """A folder of a BERT of one layer over the words of some texts, which it has learnt for some steps."""
    from tokenizers import Tokenizer as Words
    from tokenizers import models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({word for text in texts for word in text.split()})]
    plain = Words(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": mask}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **names)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=length, **sizes)
    model = getattr(transformers, kind)(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    rows = torch.tensor(tokenizer(list(texts))["input_ids"]) if steps else None  # all equally long
    for step in range(steps):
        masked, place = rows.clone(), 2 + step % 2
        masked[:, place] = 4
        torch.nn.functional.cross_entropy(model(masked).logits[:, place], rows[:, place]).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    return folder


def spans_of(text: str, *words: str) -> list[tuple[int, int]]:
    return [(text.index(word), text.index(word) + len(word)) for word in words]


def plain_scores(folder, texts, changed) -> list[float]:
    """The definition, one mask at a time and without a batch, for a vocabulary of words. changed: their numbers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    found = []
    for text, places in zip(texts, changed):
        words, means = text.split(), []
        for some in places:
            labels = tokenizer.convert_tokens_to_ids([words[k] for k in some])
            masked = " ".join("[MASK]" if k in some else word for k, word in enumerate(words))
            with torch.inference_mode():
                logits = model(**tokenizer(masked, return_tensors="pt")).logits[0].log_softmax(-1)
            means.append(np.mean([float(logits[1 + k, label]) for k, label in zip(some, labels)]))
        found.append(np.mean(means))
    return found


# A text, its changes, and the numbers of the words that are masked together.
CHANGED = [
    ("a dog barks .", ["dog"], [[1]]),
    ("a cat barks .", ["cat", "barks"], [[1], [2]]),
    ("a dog moos and a cow barks .", ["dog moos", "cow"], [[1], [2], [5]]),
    ("a cow and a dog .", ["a dog"], [[3, 4]]),
    ("the cat", ["the cat"], [[0], [1]]),
]


@pytest.mark.parametrize("tokens", [1, 12, 1024])
def test_a_score_is_that_of_the_definition(tmp_path, monkeypatch, tokens):
    """However many rows go through the model at once."""
    monkeypatch.setattr(module, "_TOKENS", tokens)
    folder = save_bert(tmp_path / "bert", [*SENTENCES, "the and"])
    texts, changes, words = zip(*CHANGED)
    found = open_masked_lm(folder).scores(texts, [spans_of(text, *some) for text, some in zip(texts, changes)])
    assert np.allclose(found, plain_scores(folder, texts, words), atol=1e-5)


def test_a_model_of_ours_scores_as_it_fills_a_mask(monkeypatch):
    pipeline = Pipeline(lively_model(vocabulary=Tokenizer.vocab_size), precision="fp32")
    monkeypatch.setattr(inference, "load", lambda *_, **__: pipeline)
    words = {f"a {word} dog on the grass": word for word in ("red", "small", "black")}
    found = open_masked_lm("run").scores(list(words), [spans_of(text, word) for text, word in words.items()])
    filled = dict(pipeline.fill_mask("a [MASK] dog on the grass", top_k=Tokenizer.vocab_size))
    assert np.allclose(np.exp(found), [filled[f" {word}"] for word in words.values()], rtol=1e-4)


def test_what_was_read_is_more_natural_than_what_was_not(tmp_path):
    model = open_masked_lm(save_bert(tmp_path / "bert", SENTENCES, steps=200))
    odd = ["a dog meows .", "a cat moos .", "a cow barks ."]
    for changed in (1, 2):
        natural, other = (
            model.scores(some, [spans_of(t, t.split()[changed]) for t in some]) for some in (SENTENCES, odd)
        )
        assert natural.min() > other.max()


def test_what_stands_behind_the_last_place_is_no_evidence(tmp_path):
    model = open_masked_lm(save_bert(tmp_path / "bert", SENTENCES, length=8))
    text = "a dog barks . a cat meows ."
    alone, both = (model.scores([text], [spans_of(text, *words)]) for words in (["dog"], ["dog", "meows"]))
    assert alone == both and model.scores([text], [spans_of(text, "meows")]) == 0


@pytest.mark.parametrize("wrong", ["head", "mask", "weights", "nothing"])
def test_what_is_no_masked_language_model_is_refused(tmp_path, wrong):
    folder = tmp_path / "folder"
    if wrong == "nothing":
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "bert"}')
    else:
        save_bert(folder, SENTENCES, **{"head": {"kind": "BertModel"}, "mask": {"mask": None}}.get(wrong, {}))
    if wrong == "weights":  # that would be unpickled
        torch.save({}, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="masked language model") as refused:
        open_masked_lm(folder)
    assert refused.value.parts()["where"] == str(folder)


# --- in `unimo prepare rewrites` ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(world, tmp_path_factory):
    corpus = open_corpus("pairs", world)
    captions = {text for i in range(len(corpus)) for text in corpus.captions(i)}
    return save_bert(tmp_path_factory.mktemp("bert") / "bert", sorted(captions))


def test_kept_is_what_the_model_expects_most(world, corpus, bert, tmp_path):
    """Of what is written without the model for three times as many a third at most, and no odd ones in their place."""
    many = replace(FEW, phrases=3 * FEW.phrases, words=3 * FEW.words)
    rewrites(world, out=tmp_path / "drawn", counts=many, candidates=1, say=quiet)
    rewrites(world, out=tmp_path / "kept", counts=FEW, candidates=1, masked_lm=bert, say=quiet)
    drawn, kept = (Rewrites.open(tmp_path / name, corpus) for name in ("drawn", "kept"))
    model, lowest, highest = open_masked_lm(bert), defaultdict(list), defaultdict(list)
    for i in range(0, len(corpus), 7):
        for level in ("word", "phrase"):
            some, best = ([one for one in each.negatives(i, 0) if one.level == level] for each in (drawn, kept))
            spans = [Rewrite(one.level, one.kind, one.changes).spans() for one in some]
            scores = dict(zip([one.text for one in some], model.scores([one.text for one in some], spans)))
            passed, most = {one.text for one in best}, -(-len(some) // 3)
            assert len(passed) <= most and passed <= set(scores)
            rest = [scores[text] for text in set(scores) - passed]
            lowest[level] += [scores[text] for text in passed]
            assert not passed or min(scores[text] for text in passed) >= max(rest or [-np.inf])
            highest[level] += rest if len(passed) < most else []  # refused though there was room
    for level, scores in lowest.items():
        assert scores and min(scores) > max(highest[level] or [-np.inf])


def test_the_same_model_gives_the_same_bytes_and_another_one_begins_again(tmp_path):
    things = [(who, colour) for who in ("dog", "cat", "cow") for colour in ("red", "blue")]
    texts = {f"{who}{colour}": [f"a {colour} {who} on the grass .", f"the {who} runs ."] for who, colour in things}
    pairs = pairs_file(tmp_path / "pairs", texts)
    bert = save_bert(tmp_path / "bert", [text for some in texts.values() for text in some])
    options = {"counts": FEW, "masked_lm": bert, "say": quiet}
    for name in ("one", "two"):
        rewrites(pairs, out=tmp_path / name, **options)
    assert the_file(tmp_path / "one").read_bytes() == the_file(tmp_path / "two").read_bytes()
    (row,) = rewrites(pairs, out=tmp_path / "one", **options)
    assert not row["built"] and row["words"] > 0
    weights = load_file(bert / "model.safetensors")
    other = shutil.copytree(bert, tmp_path / "other")
    save_file({name: 2 * weight for name, weight in weights.items()}, other / "model.safetensors", {"format": "pt"})
    for changed in ({"masked_lm": other}, {"masked_lm": None}):
        (row,) = rewrites(pairs, out=tmp_path / "one", **{**options, **changed})
        assert row["built"]


def test_spans_of_a_rewrite_are_what_is_new():
    changes = (Change("object", (2, 5), "dog", "small cow"), Change("object", (14, 20), "a cat.", "an owl."))
    rewrite = Rewrite("phrase", "object+object", changes)
    text = rewrite.apply("a dog sits by a cat.")
    assert [text[slice(*span)] for span in rewrite.spans()] == ["small cow", "an owl."]
