"""Rewrites of a corpus are the same bytes however often the run was killed, and are refused for another corpus."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from rewrite_files import FEW, PAIRS, pairs_file, quiet, the_file

from unimo import sidecar
from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import open_corpus
from unimo.errors import DataError, UsageError
from unimo.rewriting import prepare as module
from unimo.rewriting import store
from unimo.rewriting.back_translation import BackTranslation, identity, pivots
from unimo.rewriting.grammar import tokens
from unimo.rewriting.prepare import Counts, may_be_paraphrase, rewrites
from unimo.rewriting.store import FORMAT, Rewrites, read_record
from unimo.rewriting.tfidf import NearCaptions
from unimo.rng import generator
from unimo.sidecar import Sidecar
from unimo.synthetic.language import caption_is_true
from unimo.synthetic.world import scene
from unimo.tokenizer import Tokenizer

# --- what is written --------------------------------------------------------------------------------


def test_every_caption_has_its_record(corpus, out, world):
    found = Sidecar(the_file(out), FORMAT)
    assert found.header["corpus"] == corpus.fingerprint and found.header["settings"]["words"] == FEW.words
    assert list(found.keys) == [f"{key}#{j}" for key in corpus.keys for j in range(2)] and not found.notes
    for record in (read_record(found, number) for number in range(2 * PAIRS)):
        assert len(record["nodes"]) <= 11 and len(record["sentences"]) <= 4


def test_a_second_run_writes_nothing(world, out):
    before = the_file(out).stat()
    (row,) = rewrites(world, out=out, counts=FEW, say=quiet)
    assert not row["built"] and the_file(out).stat().st_mtime_ns == before.st_mtime_ns
    assert row["captions"] == 2 * PAIRS and row["words"] > 0 and row["phrases"] > 0 and row["sentences"] > 0


def test_beside_the_shards_by_default(world, corpus):
    (row,) = rewrites(world, counts=Counts(0, 1, 1, 1), say=quiet)
    assert Path(row["path"]).parent == world
    assert Rewrites.open(None, corpus).negatives(0, 0)


def test_other_settings_are_written_anew(world, out, tmp_path):
    (row,) = rewrites(world, out=tmp_path, counts=FEW, seed=1, say=quiet)
    assert row["built"] and the_file(tmp_path).read_bytes() != the_file(out).read_bytes()
    (row,) = rewrites(world, out=tmp_path, counts=FEW, say=quiet)
    assert row["built"] and the_file(tmp_path).read_bytes() == the_file(out).read_bytes()


def test_negatives_are_false_of_their_scene(corpus, reader):
    texts = [(i, n.text) for i in range(len(corpus)) for j in range(2) for n in reader.negatives(i, j)]
    false = np.mean([not caption_is_true(text, scene(0, "train", i)) for i, text in texts])
    print(f"{false:.4f} of {len(texts)} negatives are false of their scene")
    assert len(texts) > 1000 and false >= 0.95


# --- killed and resumed -----------------------------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch):
    for place in (module, sidecar):
        monkeypatch.setattr(place, "BLOCK", 16)


def stop_after(patch: pytest.MonkeyPatch, blocks: int, how) -> None:
    plain, calls = module._Rewriter.__call__, []

    def records(self, rows):
        calls.append(1)
        if len(calls) > blocks:
            how()
        return plain(self, rows)

    patch.setattr(module._Rewriter, "__call__", records)


@pytest.mark.parametrize("blocks", [0, 1, 4])
def test_an_interrupted_run_goes_on_to_the_same_bytes(world, out, tmp_path, small_blocks, blocks):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, blocks, lambda: signal.raise_signal(signal.SIGINT))
        rewrites(world, out=tmp_path, counts=FEW, say=quiet)
    assert not list(tmp_path.glob("*.safetensors"))
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 0, lambda: calls.append(1))
        rewrites(world, out=tmp_path, counts=FEW, say=quiet)
    assert len(calls) == 8 - blocks  # 120 captions are 8 blocks; whole ones are not made again
    assert the_file(tmp_path).read_bytes() == the_file(out).read_bytes() and len(list(tmp_path.iterdir())) == 1


# --- of another grammar -----------------------------------------------------------------------------


def test_another_grammar_does_not_go_on_but_is_read(world, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "GRAMMAR", 41)
    rewrites(world, out=tmp_path, counts=FEW, say=quiet)
    before = the_file(tmp_path).read_bytes()
    monkeypatch.setattr(store, "GRAMMAR", 42)
    with pytest.raises(DataError, match="another grammar") as refused:
        rewrites(world, out=tmp_path, counts=FEW, say=quiet)
    assert refused.value.parts()["got"] == "grammar 41" and the_file(tmp_path).name in refused.value.parts()["where"]
    assert the_file(tmp_path).read_bytes() == before and Rewrites.open(tmp_path, corpus).negatives(0, 0)
    rewrites(world, out=tmp_path, counts=FEW, seed=1, say=quiet)  # other settings begin again in any case
    assert Sidecar(the_file(tmp_path), FORMAT).header["grammar"] == 42


CAPTIONS = {
    "dog": ["A brown dog runs on the green grass .", "a small dog is chasing two red balls", "The dog plays outside ."],
    "girl": ["A little girl in a pink dress climbs the stairs .", "a girl wearing a pink dress on wooden stairs"],
    "men": ["Two men in blue shirts sit on a bench .", "men sitting on a wooden bench near a red car"],
    "boy": ["A boy in a red shirt jumps into the blue pool .", "a small boy is jumping off a bench into a pool"],
    "cat": ["A black cat sleeps on a red car .", "above a small black cat is a red car ."],
    "cow": ["A cow is left of a horse, and a dog is right of the cow .", "a brown cow and a dog are behind the cat"],
    "woman": ["A woman in a blue dress walks two dogs .", "a woman with brown dogs on the grass behind a house"],
}
GRAMMARS = {4: ("16348300d698737d", "15fd2dcff162b48d")}


def test_rules_change_only_together_with_the_number_of_the_grammar(tmp_path):
    """Where this fails, the rules changed: raise GRAMMAR in unimo/rewriting/rewrite.py and put the new digests here."""
    counts = Counts(0, 9, 30, 30)
    rewrites(pairs_file(tmp_path / "pairs", CAPTIONS), out=tmp_path, counts=counts, candidates=1, say=quiet)
    tables = (importlib.resources.files("unimo") / "assets" / "caption_grammar.txt").read_bytes()
    found, lines = Sidecar(the_file(tmp_path), FORMAT), b""
    for number, name in enumerate(found.keys):
        key, j = name.split("#")
        line = {"key": key, "caption": int(j), **read_record(found, number), "bad": found.notes.get(number)}
        lines += json.dumps(line, separators=(",", ":")).encode() + b"\n"
    assert GRAMMARS[store.GRAMMAR] == tuple(hashlib.sha256(data).hexdigest()[:16] for data in (tables, lines))


# --- bad input --------------------------------------------------------------------------------------


def test_bad_captions_are_named_and_nothing_stops(tmp_path):
    captions = {
        f"k{i}": [f"a {c} dog on the {p} ."] for i, (c, p) in enumerate([("red", "grass"), ("blue", "bed")] * 6)
    }
    captions["odd"] = ["running", "...", "a green dog ."]
    path = pairs_file(tmp_path / "pairs", captions)
    bad_samples = BadSamples(tmp_path / "bad.jsonl")
    (row,) = rewrites(path, out=tmp_path / "out", counts=FEW, bad_samples=bad_samples, say=quiet)
    named = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert {entry["key"] for entry in named} >= {"odd.png#1"} and row["bad"] == len(named)
    assert all(entry["what"] in (module.NO_OBJECT, module.NO_NEGATIVE) for entry in named)
    assert bad_samples.offered == bad_samples.used + bad_samples.quarantined
    again = BadSamples(tmp_path / "again.jsonl")  # a run that finds everything done names them too
    rewrites(path, out=tmp_path / "out", counts=FEW, bad_samples=again, say=quiet)
    assert again.quarantined == bad_samples.quarantined


def test_a_corpus_of_one_image_ends(tmp_path):
    path = pairs_file(tmp_path / "pairs", {"only": ["a red dog in the grass .", "a dog ."]})
    (row,) = rewrites(path, out=tmp_path / "out", say=quiet)
    assert (row["captions"], row["sentences"], row["words"], row["bad"]) == (2, 0, 0, 2)


@pytest.mark.parametrize("options", [{"max_similarity": 0}, {"max_similarity": 1.5}, {"max_similarity": float("nan")}])
def test_impossible_settings_are_refused(world, tmp_path, options):
    with pytest.raises(UsageError):
        rewrites(world, out=tmp_path, say=quiet, **options)
    with pytest.raises(UsageError):
        Counts(words=-1)


# --- sentence level ---------------------------------------------------------------------------------


def plain_nearest(texts, owner, query, k, max_similarity):
    """The definition, with dense matrices."""
    from unimo.rewriting.grammar import grammar

    functions = {word for word, tags in grammar().tags.items() if tags[0] in "ADPXCOW"}
    documents = [[t.text for t in tokens(text) if t.text not in functions and t.text[0].isalnum()] for text in texts]
    words = sorted({word for row in documents for word in row})
    tf = np.array([[row.count(word) for word in words] for row in documents], dtype=np.float64)
    rows = np.where(tf > 0, 1 + np.log(np.maximum(tf, 1)), 0) * (
        np.log((1 + len(texts)) / (1 + (tf > 0).sum(axis=0))) + 1
    )
    norms = np.linalg.norm(rows, axis=1)
    similar = rows @ rows[query] / np.where(norms * norms[query] > 0, norms * norms[query], 1)
    found = [(m, s) for m, s in enumerate(similar) if owner[m] != owner[query] and 0 < s < max_similarity - 1e-6]
    return sorted(found, key=lambda entry: (-round(entry[1], 5), entry[0]))[:k]


def test_neighbours_are_those_of_the_definition(corpus):
    texts = [corpus.text(i, j) for i in range(len(corpus)) for j in range(2)]
    owner = np.repeat(np.arange(len(corpus)), 2)
    for query, found in zip(range(0, 120, 7), NearCaptions(texts, owner).nearest(range(0, 120, 7), 9, 0.5)):
        expected = plain_nearest(texts, owner, query, 9, 0.5)
        assert np.allclose([s for _, s in found], [s for _, s in expected], atol=1e-5)
        assert all(owner[m] != owner[query] and s < 0.5 for m, s in found)


def test_a_caption_that_says_nothing_new_is_no_negative(tmp_path):
    captions = {
        "one": ["a brown dog runs on green grass .", "a dog outside .", "the dog is running ."],
        "two": ["a dog runs on grass .", "a dog on grass near a fence ."],
        "three": ["a dog on grass beside a cow .", "a cow ."],
        "four": ["a cow near a fence .", "a man with a cow and a horse on grass ."],
    }
    path = pairs_file(tmp_path / "pairs", captions)
    rewrites(path, out=tmp_path / "out", counts=Counts(sentences=20), max_similarity=1.0, say=quiet)
    corpus = open_corpus("pairs", path)
    negatives = Rewrites.open(tmp_path / "out", corpus).negatives(0, 0)
    texts = {negative.text for negative in negatives if negative.level == "sentence"}
    assert "a dog on grass beside a cow ." in texts and "a dog runs on grass ." not in texts


# --- back-translation -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def marian(tmp_path_factory) -> str:
    """A random Marian model and a tokenizer of words, as folders of `transformers`."""
    transformers = pytest.importorskip("transformers")
    import torch
    from tokenizers import Tokenizer as UncachedDecoder
    from tokenizers import models, pre_tokenizers

    folder = tmp_path_factory.mktemp("marian") / "tiny"
    words = ["</s>", "<unk>", "<pad>", "a", "red", "blue", "circle", "square", "is", "the", *map(str, range(40))]
    plain = UncachedDecoder(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=len(words), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=300,
        pad_token_id=2, eos_token_id=0, decoder_start_token_id=2, forced_eos_token_id=0, init_std=1.0,
    )  # fmt: skip
    transformers.MarianMTModel(config).save_pretrained(folder)
    return str(folder)


def test_back_translation_through_loaded_models(marian):
    back = BackTranslation(marian, marian, max_new_tokens=8)
    found = back(["a red circle is left of the square", "the blue square"], 3)
    assert [len(variants) for variants in found] == [3, 3]
    assert back(["a red circle is left of the square", "the blue square"], 3) == found
    assert all(isinstance(text, str) for variants in found for text in variants)


def test_positives_are_written_and_resumed(world, marian, tmp_path, monkeypatch, corpus, small_blocks):
    monkeypatch.setattr(module, "may_be_paraphrase", lambda text, variant: bool(variant))  # random models babble
    plain = BackTranslation.__init__
    monkeypatch.setattr(
        BackTranslation, "__init__", lambda self, *names, device: plain(self, *names, device=device, max_new_tokens=6)
    )
    options = {"counts": FEW, "translate": [(marian, marian), (marian, marian)], "say": quiet}
    (row,) = rewrites(world, out=tmp_path / "one", **options)
    assert row["positives"] > 0
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 2, lambda: signal.raise_signal(signal.SIGINT))
        rewrites(world, out=tmp_path / "two", **options)
    rewrites(world, out=tmp_path / "two", **options)
    assert the_file(tmp_path / "one").read_bytes() == the_file(tmp_path / "two").read_bytes()
    assert identity(marian) in str(Sidecar(the_file(tmp_path / "one"), FORMAT).header["settings"])
    reader = Rewrites.open(tmp_path / "one", corpus)
    some = next((i, j) for i in range(PAIRS) for j in range(2) if reader.positives(i, j))
    (row, *_), _ = reader.sample(*some, generator(0), positives=1, negatives=0)
    assert Tokenizer.default().decode(row) in reader.positives(*some)


def test_pivots_are_pairs():
    assert pivots(["a/en-de, a/de-en", "x,y"]) == [("a/en-de", "a/de-en"), ("x", "y")]
    for wrong in ("a", "a,b,c", "a,", ""):
        with pytest.raises(UsageError, match="pair of translation models"):
            pivots([wrong])


def test_babble_is_no_paraphrase():
    assert may_be_paraphrase("a red dog runs", "a dog that is red runs")
    assert not may_be_paraphrase("a red dog runs", "") and not may_be_paraphrase("a red dog runs", "dog")
    assert not may_be_paraphrase("a red dog runs here", "dog dog dog dog dog")


def test_models_that_cannot_be_loaded_are_named(world, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="translation model"):
        rewrites(world, out=tmp_path, translate=[(str(tmp_path / "empty"),) * 2], say=quiet)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UsageError, match="unimo\\[translate\\]"):
        BackTranslation("a", "b")


# --- the command ---


def test_the_command_writes_page_and_sample(world, tmp_path):
    from typer.testing import CliRunner

    from unimo.cli import app

    options = ["--words", "3", "--phrases", "3", "--sentences", "2", "--out", str(tmp_path)]
    options += ["--page", str(tmp_path / "page.html"), "--rows", "2", "--sample", "7", "--page-seed", "5"]
    done = CliRunner().invoke(app, ["prepare", "rewrites", str(world), *options])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "page.html").read_text().count("<article>") == 2
    assert len((tmp_path / "rewrites-sample.jsonl").read_text().splitlines()) == 7


def test_the_command_says_what_was_left_out_and_how_much_may_be(tmp_path):
    from typer.testing import CliRunner

    from unimo.cli import app

    captions = {f"k{i}": [f"a {colour} dog on the grass ."] for i, colour in enumerate(["red", "blue"] * 6)}
    path = pairs_file(tmp_path / "pairs", captions)
    (tmp_path / "pairs" / "k3.png").write_bytes(b"no image")
    options = ["prepare", "rewrites", str(path), "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, options)
    assert isinstance(refused.exception, DataError) and "too many bad samples" in str(refused.exception)
    done = CliRunner().invoke(app, [*options, "--max-bad-fraction", "0.1"])
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.output.splitlines() if " are bad (" in line]
    assert "1 x cannot decode image" in line and "--bad-samples" in line
