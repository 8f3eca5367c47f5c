"""What the published readers, masks and scores make of small inputs, and ours (tests/golden/README.md, folder data).

Published batches are rectangles with padding; ours are packed rows without. So ours are laid out as the published
rectangles, and permissions are compared among real tokens and must be absent everywhere else. A fixture of this file
counts what is read of it: a value that no test looked at is a failure.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from parity.test_corruption_golden import LegacyDraws
from PIL import Image
from safetensors.numpy import load_file
from torch import Tensor

from unimo.batch import IMAGE, KNOWN, TEXT, WRITTEN
from unimo.data.augment import resize
from unimo.data.batch_builder import BatchBuilder, SampledExample
from unimo.data.images import to_rgb
from unimo.data.masking import mask_spans
from unimo.data.records import Record, dialogue_record, read_field, read_turns, seq2seq_record
from unimo.data.regions import ImageRegions, box_vectors, read_caption_line, read_tag_line, stack_regions
from unimo.decoding.beam_search import GenerationConfig, beam
from unimo.errors import DataError
from unimo.metrics import METRICS, bleu, bleu_as_released
from unimo.model.attention import JOINT, Plan
from unimo.model.embeddings import PatchEmbedding
from unimo.objectives.masked_language_modeling import MaskedLanguageModeling
from unimo.tokenizer import Tokenizer, positions

HERE = Path(__file__).parent
COVERED = {  # file of tests/golden/data -> where every value of it is compared with ours
    "batching": "test_data_golden.py::test_batching",
    "dialogue_records": "test_data_golden.py::test_dialogue_records",
    "fragment_seq2seq": "test_corruption_golden.py::test_fragments_as_released",
    "image_preprocessing": "test_data_golden.py::test_image_preprocessing",
    "metrics": "test_data_golden.py::test_metrics",
    "pretraining_batch_mlm": "test_data_golden.py::test_pretraining_batch",
    "seq2seq_records": "test_data_golden.py::test_seq2seq_records",
    "span_mlm": "test_corruption_golden.py::test_masked_spans",
    "tokenizer": "../test_tokenizer.py::test_published_ids_and_text",
    "trigram_blocking": "../decoding/test_beam_search.py::test_the_published_trigram_rule",
    "unimo_caption_batch": "test_data_golden.py::test_caption_batch",
}


class Fixture:
    """Values and tensors of one file, without last axes of size 1. `finished` fails on what was not read."""

    def __init__(self, golden: Path, name: str):
        path = golden / "data" / f"{name}.json"
        self.values = json.loads(path.read_text())["values"]
        self.values |= load_file(path.with_suffix(".safetensors"))
        self.unread = set(self.values)

    def __getitem__(self, name: str):
        self.unread.discard(name)
        value = self.values[name]
        return value[..., 0] if isinstance(value, np.ndarray) and value.ndim > 1 and value.shape[-1] == 1 else value

    def finished(self) -> None:
        assert not self.unread


def rectangle(rows, width: int, fill: float = 0) -> np.ndarray:
    """Rows of different lengths as the published code pads them."""
    return np.stack([np.pad(row, (0, width - len(row)), constant_values=fill) for row in rows])


def same_permissions(published: np.ndarray, real: np.ndarray, roles) -> None:
    """published: (B, L, L) 0/1; real: (B, L) which slots hold tokens; roles: our roles of those tokens in order."""
    b, length = real.shape
    slots = np.flatnonzero(real)
    token = torch.arange(len(slots))
    plan = Plan(torch.from_numpy(slots // length), torch.as_tensor(np.array(roles)), token, table=JOINT)
    expected = torch.block_diag(*torch.from_numpy(published))  # nobody sees another sample
    assert expected.shape == (b * length, b * length)
    ours = torch.zeros_like(expected)
    ours[slots[:, None], slots[None, :]] = plan.allowed(token[:, None], token[None, :]).float()
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def packed(records: list[Record]):
    """Our batch of some records, all of whose written tokens are asked for."""
    builder = BatchBuilder(step=0, size=1, tokenizer=Tokenizer.default())
    for record in records:
        text = builder.add_text("written", record.ids, role=record.roles, positions=record.positions)
        places = np.arange(record.target_begins, len(record.ids) - 1)
        builder.add_targets("written", "written", text, places, record.ids[places + 1])
    return builder.finish()


# ---- batches


def test_batching(golden):
    x = Fixture(golden, "batching")
    builder = BatchBuilder(step=0, size=1, tokenizer=Tokenizer.default())
    for ids in x["insts"]:
        builder.add_text("read", ids)
    texts = builder.finish().texts
    lengths, (max_length, tokens) = texts.lengths.tolist(), x["max_len,num_token"]
    assert [max(lengths), len(texts.ids)] == [max_length, tokens]
    assert x["out.seq2seq.seq_lens"].tolist() == lengths
    ids = rectangle(torch.split(texts.ids, lengths), max_length, fill=Tokenizer.pad)
    for name in ("out.nlu.ids", "out.seq2seq.ids"):
        np.testing.assert_array_equal(x[name], ids)
    from_zero = rectangle([positions(n, start=0) for n in lengths], max_length, fill=Tokenizer.pad)
    np.testing.assert_array_equal(x["out.seq2seq.pos"], from_zero)

    real = x["out.nlu.mask"]
    np.testing.assert_array_equal(real, rectangle([np.ones(n) for n in lengths], max_length))
    same_permissions(real[:, :, None] * real[:, None, :], real, [TEXT] * tokens)
    starts = [2, 1, 4]  # of the targets
    roles = np.concatenate([np.repeat([KNOWN, WRITTEN], [start, n - start]) for start, n in zip(starts, lengths)])
    for name in ("out.seq2seq.mask", "out.gen_seq2seq_mask"):
        same_permissions(x[name], real, roles)

    features = [x[f"in.feature{i}"] for i in range(3)]
    regions = stack_regions([ImageRegions(table, np.zeros((len(table), 5), np.float32)) for table in features])
    np.testing.assert_array_equal(x["out.features"], regions.features)
    # An image with no row but its mean is absent there. Here it cannot arise: a detector's answer has a box.
    present = np.where(regions.lengths > 1, regions.lengths, 0)
    np.testing.assert_array_equal(x["out.feature_mask"], rectangle([np.ones(n) for n in present], 4))
    with pytest.raises(DataError):
        box_vectors(np.zeros((0, 4)), 1, 1)
    x.finished()


def test_caption_batch(golden):
    x = Fixture(golden, "unimo_caption_batch")
    limits = x["settings"]
    most, most_tags, max_length = (limits[name] for name in ("max_img_len", "max_obj_len", "max_tgt_len"))
    sizes = {"feature_size": 6, "classes": 4}
    lines = [read_caption_line(line, max_length=max_length, max_rows=most, **sizes) for line in x["input_lines"]]
    tags = {line.image: line for line in map(read_tag_line, x["object_file"].splitlines())}
    for i, line in enumerate(lines):
        np.testing.assert_array_equal(x[f"out.record{i}.image_loc"], line.regions.boxes)
        np.testing.assert_array_equal(x[f"out.record{i}.image_embeddings"], line.regions.features)
        assert x[f"out.record{i}.number_box"] == len(read_caption_line(x["input_lines"][i], **sizes).regions)
        assert str(x[f"out.record{i}.image_id"]) == line.image
        tag = tags[line.image]
        for name, ours in (
            *(("token_ids", line.ids), ("pos_ids", line.positions), ("seg_labels", line.word_starts)),
            *(("obj_token_ids", tag.ids), ("obj_pos_ids", tag.positions)),
        ):
            assert x[f"out.record{i}.{name}"].tolist() == ours.tolist()
        for name in ("sent_ids", "obj_sent_ids"):  # fed by the readers, ignored by the models
            assert not x[f"out.record{i}.{name}"].any()

    whole = [read_caption_line(line, **sizes) for line in x["input_lines"]]
    records = [
        seq2seq_record(
            [tags[line.image].ids[1:-1]],
            line.ids[1:-1],
            max_source_length=most_tags,
            max_target_length=max_length,
            end=Tokenizer.sep,
            keep_end=True,
        )
        for line in whole
    ]
    regions = stack_regions([line.regions for line in lines])
    training_batch(x, records, regions, most_tags, max_length)
    decoding_batch(x, records, regions, most_tags, [line.image for line in lines])
    x.finished()


def training_batch(x: Fixture, records: list[Record], regions, most_tags: int, max_length: int) -> None:
    known = same_images_and_tags(x, "out.train", records, regions, most_tags)
    written = [np.split(record.ids, [record.target_begins])[1] for record in records]
    at = [record.positions[record.target_begins :] for record in records]
    np.testing.assert_array_equal(x["out.train.token_ids"], rectangle(written, max_length, fill=Tokenizer.pad))
    np.testing.assert_array_equal(x["out.train.position_ids"], rectangle(at, max_length, fill=Tokenizer.pad))
    ignored = rectangle([0 * ids for ids in written], max_length, fill=Tokenizer.pad)
    np.testing.assert_array_equal(x["out.train.sent_ids"], ignored)

    there = rectangle([np.ones(len(ids)) for ids in written], max_length)
    np.testing.assert_array_equal(x["out.train.token_mask"], there)
    np.testing.assert_array_equal(x["out.train.image_mask"], known[:, : regions.features.shape[1]])
    roles = np.concatenate([[*[IMAGE] * n, *record.roles] for n, record in zip(regions.lengths.tolist(), records)])
    same_permissions(x["out.train.input_mask"], np.concatenate([known, there], axis=1), roles)

    batch = packed(records)
    targets, texts = batch.targets["written"], batch.texts
    assert x["out.train.labels"].tolist() == targets.labels.tolist()
    sample = texts.owner[targets.rows]
    begins = torch.tensor([record.target_begins for record in records])
    place = targets.rows - texts.offsets[sample] - begins[sample]
    assert x["out.train.tgt_pos"].tolist() == (sample * max_length + place).tolist()


def decoding_batch(x: Fixture, records: list[Record], regions, most_tags: int, images: list[str]) -> None:
    """The prefix, and the first of the single steps."""
    known = same_images_and_tags(x, "out.decode", records, regions, most_tags)
    assert x["out.decode.image_id"].tolist() == [int(image) for image in images]
    # One square more: the first written token, which sees the prefix and itself.
    seen = np.concatenate([x["out.decode.input_mask"], x["out.decode.tgt_input_mask"]], axis=1)
    seen = np.pad(seen, ((0, 0), (0, 0), (0, 1)))
    seen[:, -1, -1] = 1
    roles = [[*[IMAGE] * n, *r.roles[: r.target_begins + 1]] for n, r in zip(regions.lengths.tolist(), records)]
    same_permissions(seen, np.pad(known, ((0, 0), (0, 1)), constant_values=1), np.concatenate(roles))

    heard = []

    def advance(words: Tensor, parents: Tensor) -> Tensor:
        heard.append((words.tolist(), parents.tolist()))
        return torch.zeros(len(words), 9)

    writer = SimpleNamespace(n=len(records), advance=advance)
    beam(writer, GenerationConfig(cls=Tokenizer.cls, end=Tokenizer.sep, max_length=1))
    assert heard == [(x["out.decode.tgt_ids"].flatten().tolist(), x["out.decode.parent_idx"].tolist())]
    unwritten = beam(writer, GenerationConfig(cls=Tokenizer.cls, end=Tokenizer.sep, max_length=0))
    assert x["out.decode.init_scores"].tolist() == [told.score for told, *_ in unwritten]
    first = [record.positions[record.target_begins] for record in records]
    assert x["out.decode.tgt_pos"].flatten().tolist() == first


def same_images_and_tags(x: Fixture, batch: str, records: list[Record], regions, most_tags: int) -> np.ndarray:
    """Compares the prefix of every sample; returns (B, rows + tags) which of its slots hold tokens."""
    np.testing.assert_array_equal(x[f"{batch}.image_embedding"], regions.features)
    np.testing.assert_array_equal(x[f"{batch}.image_loc"], regions.boxes)
    before = [record.target_begins for record in records]
    for name, rows in (
        ("obj_ids", [record.ids[:n] for record, n in zip(records, before)]),
        ("obj_pos", [record.positions[:n] for record, n in zip(records, before)]),
        ("obj_sent", [np.zeros(n) for n in before]),  # ignored by the models
    ):
        np.testing.assert_array_equal(x[f"{batch}.{name}"], rectangle(rows, most_tags, fill=Tokenizer.pad))
    lengths, rows = regions.lengths.tolist(), regions.features.shape[1]
    in_image, in_tags = ([np.ones(n) for n in counts] for counts in (lengths, before))
    return np.concatenate([rectangle(in_image, rows), rectangle(in_tags, most_tags)], axis=1)


def test_pretraining_batch(golden):
    """A published mixed batch: two pairs, the second mismatched, a text and an image (whose text is not read)."""
    x = Fixture(golden, "pretraining_batch_mlm")
    rows = x["insts (without pixels)"]
    ids, placed, starts, patches = ([row[column] for row in rows] for column in (1, 3, 5, 9))
    labels, maskable, *flags = ([row[column] for row in rows] for column in (4, 6, 11, 12, 13))
    kinds = np.array([0, 0, 1, 2])  # pair, pair, text, image

    class Lucky(SampledExample):
        def rng(self, purpose):
            return draws  # one generator for all samples, as published

    draws = LegacyDraws(x["numpy_seed"])
    word_starts = {tuple(row): np.array(start) for row, start in zip(ids, starts)}
    tokenizer = SimpleNamespace(
        **{name: getattr(Tokenizer, name) for name in ("cls", "sep", "mask", "vocab_size")},
        word_starts=lambda row: word_starts[tuple(row.tolist())],
    )
    pair, second, text, _ = (Lucky("", 0, np.array(row[1:-1]), ()) for row in ids)
    builder = BatchBuilder(step=0, size=1, tokenizer=tokenizer, pairs=[pair, second], masked=[text])
    MaskedLanguageModeling().corrupt(builder)
    batch = builder.finish()
    assert batch.text_groups == {"pairs.masked": (0, 2), "texts.masked": (2, 3)}

    max_length = x["out.src_ids"].shape[1]
    lengths = batch.texts.lengths.tolist()
    read = kinds < 2
    assert maskable == read.tolist()
    for name, ours, unread in (
        ("out.src_ids", batch.texts.ids, ids[3]),
        ("out.pos_ids", batch.texts.positions, placed[3]),
        ("out.sent_ids", 0 * batch.texts.ids, [0] * len(ids[3])),  # ignored by the models
    ):
        rectangular = rectangle([*torch.split(ours, lengths), unread], max_length, fill=Tokenizer.pad)
        np.testing.assert_array_equal(x[name], rectangular)
    assert x["src_ids equal unmasked input"] == (rectangle(ids, max_length, 1).tolist() == x["out.src_ids"].tolist())
    there = rectangle([np.ones(n) for n in [*lengths, len(ids[3])]], max_length)
    np.testing.assert_array_equal(x["out.text_mask"][:, 0], there)

    asked = [batch.targets["mlm.pairs"], batch.targets["mlm.texts"]]
    place, label = (torch.cat([getattr(targets, name) for targets in asked]) for name in ("rows", "labels"))
    sample = batch.texts.owner[place]
    assert x["out.mask_pos"].tolist() == (sample * max_length + place - batch.texts.offsets[sample]).tolist()
    assert x["out.mask_label"].tolist() == label.tolist()
    # Published rows carry a flag by which mismatched pairs drop out; ours mask only texts that belong.
    assert x["out.mask_pair_label"].tolist() == [labels[i] for i in sample]
    assert x["out.labels"].tolist() == labels

    np.testing.assert_array_equal(x["out.image_mask"][:, 0], rectangle([np.ones(1 + len(p)) for p in patches], 5))
    for name, flag, has in (
        ("out.with_image", flags[0], kinds != 1),
        ("out.with_text", flags[1], kinds != 2),
        ("out.is_multimodal", flags[2], kinds == 0),
    ):
        assert x[name].tolist() == flag == has.tolist()
    x.finished()


def test_word_bounds_and_merged_spans(golden):
    """Parts of the span masking that its seeded examples show only together."""
    data = json.loads((golden / "data" / "span_mlm.json").read_text())["data"]

    def hidden(starts, anchors, count):
        """What is hidden where these anchors are drawn and each span takes one word."""
        sampled = iter(anchors)
        rng = SimpleNamespace(
            random=lambda size=None: 0.0 if size is None else np.zeros(size),
            integers=lambda low, high, size=None: next(sampled) if size is None else np.full(size, low),
        )
        row = np.arange(10, 10 + len(starts))
        ratio = (count - 0.5) / len(row)
        return mask_spans(row, starts, rng, ratio=ratio, vocab_size=99, mask_id=99)[1].tolist()

    starts = data["word_bounds"]["segment_labels"]
    for case in data["word_bounds"]["cases"]:
        word = list(range(case["start"], case["end"]))
        assert hidden(starts, [case["anchor"]], len(word)) == word

    for case in data["merge_intervals"]:  # first and last row of each; each becomes a word here
        given, merged = ([i for a, b in case[side] for i in range(a, b + 1)] for side in ("input", "output"))
        assert hidden(np.zeros(1 + max(merged), dtype=int), given, len(set(given))) == merged


# ---- records


def test_seq2seq_records(golden):
    for block in json.loads((golden / "data" / "seq2seq_records.json").read_text())["data"]:
        said = block["settings"]
        assert said["task_type"] == "normal" and said["tokenized_input"]
        for i, (example, record) in enumerate(zip(block["examples"], block["records"], strict=True)):
            ours = seq2seq_record(
                [read_field(field) for field in example["src"]],
                read_field(example["tgt"]),
                max_source_length=said["max_src_len"],
                max_target_length=said["max_tgt_len"],
                continuous=said["continuous_position"],
            )
            written = said["tgt_type_id"] * (ours.roles == WRITTEN)
            assert record == {
                "token_ids": ours.ids.tolist(),
                "text_type_ids": written.tolist(),
                "position_ids": ours.positions.tolist(),
                "tgt_start_idx": ours.target_begins,
                "data_id": i,
            }


def test_dialogue_records(golden):
    for i, case in enumerate(json.loads((golden / "data" / "dialogue_records.json").read_text())["data"]):
        example, said = case["example"], case["settings"]
        (turns,), passage = example["src"], example["knowledge"]
        ours = dialogue_record(
            read_turns(turns),
            read_field(example["tgt"]),
            passage=passage and read_field(passage),
            max_source_length=said["max_src_len"],
            max_target_length=said["max_tgt_len"],
            turn_rows=said["turn_type_size"],
            continuous=said["continuous_position"],
        )
        assert case["record"] == {
            "token_ids": ours.ids.tolist(),
            "position_ids": ours.positions.tolist(),
            "role_ids": ours.speakers.tolist(),
            "turn_ids": ours.turns.tolist(),
            "tgt_start_idx": ours.target_begins,
            "data_id": i,
        }


def test_gpt2_ids_of_the_tokenizer(golden):
    tokenizer = Tokenizer.default()
    for sample in json.loads((golden / "data" / "tokenizer.json").read_text())["data"]["samples"]:
        assert tokenizer.from_gpt2[sample["bpe_ids"]].tolist() == sample["ids"]
        assert read_field(" ".join(map(str, sample["bpe_ids"]))).tolist() == sample["ids"]


# ---- images


def test_image_preprocessing(golden):
    x = Fixture(golden, "image_preprocessing")
    assert x["pillow_version"] == "9.5.0"  # left to right first, then top to bottom: see `resize`
    embed = PatchEmbedding(width=3, image_size=32, patch=1)  # one pixel a patch and weights of 1: shows what it reads
    with torch.no_grad():
        embed.projection.weight.copy_(torch.eye(3)[:, :, None, None])
        embed.projection.bias.zero_()
        embed.positions.zero_()
        for name in ("rgb_wide", "rgb_tall", "gray"):
            image = resize(to_rgb(Image.fromarray(x[f"in.{name}"])), 32)
            theirs = torch.from_numpy(x[f"out.{name}"])
            assert ((theirs + 1) * 127.5).round().byte().equal(torch.from_numpy(image.copy()))
            ours = embed(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])[0, 1:]
            torch.testing.assert_close(ours, theirs.flatten(0, 1), rtol=0, atol=1e-6)
    x.finished()


# ---- scores


def test_metrics(golden):
    x = Fixture(golden, "metrics")
    scores = np.full((12, 36), np.nan)  # (images, captions)
    table = x["in.retrieval.score_matrix"]
    scores[table[:, 1].astype(int), table[:, 2].astype(int)] = table[:, 0]
    owner = np.arange(36) // 3
    both = METRICS["retrieval"](scores, owner)
    ours = {
        "img_avg_rank": METRICS["mean_rank"](scores.T, owner).value,
        "cap_avg_rank": METRICS["mean_rank"](scores, np.arange(36).reshape(12, 3)).value,
    }
    for k in (1, 5, 10):
        sought = {name: both[way][f"R@{k}"].value for name, way in (("img", "text_to_image"), ("cap", "image_to_text"))}
        ours |= {f"{name}_recall@{k}": value for name, value in sought.items()}
        ours[f"avg_recall@{k}"] = np.mean([*sought.values()])
    for name in ("img", "cap"):
        ours[f"avg_{name}_recall"] = np.mean([ours[f"{name}_recall@{k}"] for k in (1, 5, 10)])
    same_scores(x["retrieval"], ours)

    said, true = x["in.binary.preds"], x["in.binary.labels"]
    matthews, accuracy, f1 = (METRICS[name](said, true).value for name in ("matthews", "accuracy", "f1"))
    # Published: 2 p r / (p + r + 1e-8) with precision p and recall r. Ours has no such term.
    p, r = (said @ true / marked.sum() for marked in (said, true))
    f1 *= (p + r) / (p + r + 1e-8)
    same_scores(x["matthews_corrcoef"], {"mat_cor": matthews})
    same_scores(x["simple_accuracy"], {"acc": accuracy})
    same_scores(x["f1_score"], {"f1": f1})
    same_scores(x["acc_and_f1"], {"acc": accuracy, "f1": f1, "acc_and_f1": (accuracy + f1) / 2})

    pair = x["in.regression.preds"], x["in.regression.labels"]
    pearson, spearman = (METRICS[name](*pair).value for name in ("pearson", "spearman"))
    same_scores(
        x["pearson_and_spearman"],
        {"pearson": pearson, "spearmanr": spearman, "p_and_sp": (pearson + spearman) / 2},
    )

    texts = x["bleu_hyps"], x["bleu_refs"]
    length = sum(map(len, x["bleu_hyps"]))
    min_length, closest = 5 + 7, 6 + 7  # words of the references: the first image has one of 5 and one of 6
    # Ours is brevity * (p1 ... pn) ** (1 / n), with the brevity of the closest references.
    products = [(score.value / np.exp(1 - closest / length)) ** n for n, score in enumerate(bleu(*texts).values(), 1)]
    same_scores(
        x["bleu"],
        {
            "bleu": bleu_as_released(*texts),
            "precisions": [after / before for before, after in itertools.pairwise([1.0, *products])],
            "brevity": np.exp(1 - 1 / (length / min_length + 1e-4)),
            "ratio": length / min_length,
        },
    )
    x.finished()


def same_scores(published: dict, ours: dict) -> None:
    """Up to rounding. key_eval is not a score: it names the one that chooses a checkpoint."""
    published = {name: value for name, value in published.items() if name != "key_eval"}
    assert set(published) == set(ours)
    for name, value in published.items():
        assert ours[name] == pytest.approx(value, rel=1e-12, abs=1e-12), name


# ---- nothing left out


def test_every_file_of_the_folder_is_compared_with_ours(golden):
    assert sorted(COVERED) == sorted({path.stem for path in (golden / "data").iterdir()} - {"README"})
    for place in COVERED.values():
        file, test = place.split("::")
        assert f"\ndef {test}(" in (HERE / file).read_text(), place
