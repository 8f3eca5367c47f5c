"""The loop: exact resume, steps that are skipped, stops that save, errors that say where, nothing
forgotten.
"""

import json
import math
import os
import signal
import tarfile
from dataclasses import asdict, replace
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from dying import disk_events
from PIL import Image
from tiny_run import bits_of, log_of, quiet, tiny, train_until_done, write_tiny_world

from unimo import checkpoint
from unimo.errors import (
    DataError,
    NumericsError,
    ResourceError,
    Restart,
    UnimoError,
    UsageError,
    WeightsError,
)
from unimo.json_files import load_json
from unimo.model.build import build
from unimo.objectives import OBJECTIVES
from unimo.objectives import objective as objectives
from unimo.train import loop as T
from unimo.train import run_folder
from unimo.train.optimizer import make_optimizer


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_tiny_world(tmp_path_factory.mktemp("data") / "world")


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    """The run all others are compared with: its folder and its last checkpoint."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    return out, T.train(tiny(world), out, say=quiet)


def stop_in(monkeypatch, *steps, number=signal.SIGTERM):
    """Sends the process a signal in the middle of these steps."""
    waiting = list(steps)
    real = objectives.step

    def told(model, batch, active):
        if waiting and batch.step == waiting[0]:
            waiting.pop(0)
            os.kill(os.getpid(), number)
        return real(model, batch, active)

    monkeypatch.setattr(objectives, "step", told)


# ------------------------------------------------------------------------------------------- resume


def test_the_same_run_twice_is_the_same_to_the_last_bit(world, undisturbed, tmp_path):
    out, last = undisturbed
    again = T.train(tiny(world), tmp_path / "run", say=quiet)
    assert log_of(out) == log_of(tmp_path / "run") and bits_of(last) == bits_of(again)
    assert [record["step"] for record in log_of(out)] == list(range(6))


@pytest.mark.parametrize(
    ("stops", "workers"), [((0,), 0), ((1,), 0), ((2,), 1), ((4,), 0), ((0, 1, 2, 3, 4), 0), ((1, 3), 1)]
)
def test_a_run_stopped_anywhere_goes_on_as_if_nothing_had_happened(
    world, undisturbed, tmp_path, monkeypatch, stops, workers
):
    out, last = undisturbed
    stop_in(monkeypatch, *stops)
    path = train_until_done(tiny(world, f"workers={workers}"), tmp_path / "run")
    assert path.name == last.name
    assert log_of(tmp_path / "run") == log_of(out)
    assert bits_of(path) == bits_of(last)


def test_the_comparison_notices_a_forgotten_moment(world, undisturbed, tmp_path, monkeypatch):
    real = T.moments
    monkeypatch.setattr(T, "moments", lambda *a: {n: t for n, t in real(*a).items() if "patches" not in n})
    stop_in(monkeypatch, 3)
    assert bits_of(train_until_done(tiny(world), tmp_path / "run")) != bits_of(undisturbed[1])
    assert log_of(tmp_path / "run") != log_of(undisturbed[0])


def test_a_finished_run_resumed_changes_nothing(world, undisturbed):
    out, last = undisturbed
    before = sorted(p.name for p in (out / "checkpoints").iterdir())
    assert T.train(tiny(world), out, resume=True, say=quiet) == last
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == before


def test_a_damaged_newest_checkpoint_costs_only_time(world, undisturbed, tmp_path, monkeypatch):
    out, last = undisturbed
    stop_in(monkeypatch, 4)
    with pytest.raises(Restart):
        T.train(tiny(world), tmp_path / "run", say=quiet)
    newest = tmp_path / "run/checkpoints/step-00000005/model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    said = []
    path = T.train(tiny(world), tmp_path / "run", resume=True, say=said.append)
    assert any("skipped checkpoint step-00000005" in line for line in said)
    assert log_of(tmp_path / "run") == log_of(out) and bits_of(path) == bits_of(last)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_silently_begun_again(world, tmp_path):
    T.train(tiny(world, "steps=2"), tmp_path / "run", say=quiet)
    for path in (tmp_path / "run/checkpoints").iterdir():
        (path / "state.json").unlink()
    with pytest.raises(WeightsError, match="no usable checkpoint"):
        T.train(tiny(world, "steps=2"), tmp_path / "run", resume=True, say=quiet)
    assert len(log_of(tmp_path / "run")) == 2  # and its log is still there


def test_workers_and_saving_may_change_on_resume_and_nothing_else(world, undisturbed, tmp_path, monkeypatch):
    out, last = undisturbed
    stop_in(monkeypatch, 2)
    with pytest.raises(Restart):
        T.train(tiny(world), tmp_path / "run", say=quiet)
    with pytest.raises(DataError, match="other settings") as caught:
        T.train(tiny(world, "optimizer.lr=0.1"), tmp_path / "run", resume=True, say=quiet)
    assert "optimizer.lr = 0.1" in caught.value.got and "optimizer.lr = 0.001" in caught.value.expected
    allowed = tiny(world, "workers=1", "save_steps=100", "keep=3", "data.cache_gb=0.001")
    path = T.train(allowed, tmp_path / "run", resume=True, say=quiet)
    assert bits_of(path) == bits_of(last) and log_of(tmp_path / "run") == log_of(out)


def test_resume_with_changed_data_is_refused_and_named(tmp_path, monkeypatch):
    own = write_tiny_world(tmp_path / "world")
    stop_in(monkeypatch, 2)
    with pytest.raises(Restart):
        T.train(tiny(own), tmp_path / "run", say=quiet)
    before = bits_of(checkpoint.latest(tmp_path / "run/checkpoints"))
    (own / "texts" / "more.txt").write_text("one more document")
    with pytest.raises(DataError, match="other data") as caught:
        T.train(tiny(own), tmp_path / "run", resume=True, say=quiet)
    assert caught.value.got.startswith("texts = ")
    assert bits_of(checkpoint.latest(tmp_path / "run/checkpoints")) == before


# ------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_finishes_the_step_saves_and_asks_for_a_restart(world, tmp_path, monkeypatch, number):
    stop_in(monkeypatch, 2, number=number)
    with pytest.raises(Restart) as caught:
        T.train(tiny(world), tmp_path / "run", say=quiet)
    assert caught.value.exit_code == 75 and "after step 2" in caught.value.what
    assert checkpoint.latest(tmp_path / "run/checkpoints").name == "step-00000003"
    assert [record["step"] for record in log_of(tmp_path / "run")] == [0, 1, 2]
    assert signal.getsignal(number) is not None and run_folder.RunFolder(tmp_path / "run").close() is None  # let go


def test_a_signal_in_the_very_last_step_leaves_a_finished_run(world, undisturbed, tmp_path, monkeypatch):
    stop_in(monkeypatch, 5)
    assert bits_of(T.train(tiny(world), tmp_path / "run", say=quiet)) == bits_of(undisturbed[1])


# ------------------------------------------------------------------------------------------- numerics


def poison(monkeypatch, steps, how):
    """Spoils the loss, or only the gradient, of some steps."""
    real = objectives.step

    def poisoned(model, batch, active):
        parts, fused = real(model, batch, active)
        if batch.step in steps:
            part = parts["cmcl"]
            bad = part.total * math.nan if how == "loss" else part.total * 1.0
            if how == "gradient":
                bad.register_hook(lambda gradient: gradient * math.inf)
            parts["cmcl"] = replace(part, total=bad)
        return parts, fused

    monkeypatch.setattr(objectives, "step", poisoned)


@pytest.mark.parametrize(("how", "at"), [("loss", 0), ("loss", 3), ("gradient", 3)])
def test_a_step_that_is_not_finite_is_skipped_once_named_and_leaves_no_trace(
    world, undisturbed, tmp_path, monkeypatch, how, at
):
    poison(monkeypatch, {at}, how)
    said = []
    T.train(tiny(world, "save_steps=1", "keep=10"), tmp_path / "run", say=said.append)
    log = log_of(tmp_path / "run")
    assert [r["step"] for r in log] == list(range(6)) and [at] == [r["step"] for r in log if "skipped" in r]
    assert log[:at] == log_of(undisturbed[0])[:at]
    keys = log[at]["skipped"]
    assert len(keys["pairs"]) == 4 and len(keys["images"]) == 2 and keys["masked"] + keys["fragments"]
    assert sum("skipped" in line for line in said) == 1
    saved = [checkpoint.load(tmp_path / f"run/checkpoints/step-{n:08d}") for n in range(1, 7)]
    assert [s.state["skipped"] for s in saved] == [int(step > at) for step in range(1, 7)]
    if at:
        paths = [tmp_path / f"run/checkpoints/step-{n:08d}" for n in (at, at + 1, at + 2)]
        assert bits_of(paths[0]) == bits_of(paths[1])
        assert all(a != b for k, a in bits_of(paths[1]).items() if k.endswith("step")
                   for b in [bits_of(paths[2])[k]])  # fmt: skip


def test_three_in_a_row_end_the_run_and_name_the_last_good_checkpoint(world, tmp_path, monkeypatch):
    poison(monkeypatch, {2, 3, 4}, "loss")
    with pytest.raises(NumericsError) as caught:
        T.train(tiny(world), tmp_path / "run", say=quiet)
    assert caught.value.where.startswith("steps 2 to 4") and caught.value.exit_code == 6
    good = tmp_path / "run/checkpoints/step-00000004"
    assert str(good) in caught.value.do and checkpoint.verify(good)
    assert [r["step"] for r in log_of(tmp_path / "run") if "skipped" in r] == [2, 3, 4]


def test_two_in_a_row_then_a_good_one_go_on(world, tmp_path, monkeypatch):
    poison(monkeypatch, {0, 1, 3, 4}, "loss")
    assert checkpoint.load(T.train(tiny(world), tmp_path / "run", say=quiet)).state["skipped"] == 4


# ------------------------------------------------------------------------------------------- nothing
# forgotten


@pytest.mark.parametrize("layers", ["adamw", "muon"])
def test_a_checkpoint_holds_every_tensor_a_step_changes(world, tmp_path, layers):
    """Walks the model, its modules' plain attributes, the optimizer and the averages: what a step changes
    is saved.
    """
    run = tiny(world, f"optimizer.matrix_optimizer={layers}")
    model = build(run.model)
    optimizer = make_optimizer(model, run.optimizer)
    ema = {name: p.detach().clone() for name, p in model.named_parameters()}
    before = plain_attributes(model)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for tensor in [*model.parameters(), *ema.values()]:
        tensor.data.normal_()
    assert plain_attributes(model) == before and not list(model.buffers())
    loose = [f"{n}.{k}" for n, m in model.named_modules() for k, v in vars(m).items() if torch.is_tensor(v)]
    assert not loose, "a tensor that is neither a parameter nor a buffer is not saved"

    state = T.State(step=7, elapsed=1.25, skipped=3, skipped_in_a_row=1)
    path = checkpoint.save(tmp_path, 7, T.tensors(model, optimizer, ema), asdict(state))
    fresh = build(run.model)
    fresh_optimizer = make_optimizer(fresh, run.optimizer)
    fresh_averaged = {name: torch.zeros_like(p) for name, p in fresh.named_parameters()}
    assert T.restore(path, fresh, fresh_optimizer, fresh_averaged) == (state, asdict(state))
    assert everything(fresh, fresh_optimizer, fresh_averaged) == everything(model, optimizer, ema)


def plain_attributes(model):
    return {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, (bool, int, float, str, tuple))
    }


def everything(model, optimizer, ema):
    """All tensors by name, found by walking the objects rather than through the code that saves them."""
    found = {f"model.{n}": t for n, t in model.state_dict().items()} | {f"average.{n}": t for n, t in ema.items()}
    for n, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            found[f"optimizer.{n}.{key}"] = torch.as_tensor(value)
    return {name: tensor.detach().numpy().tobytes() for name, tensor in found.items()}


def test_every_number_the_loop_counts_is_saved(world, tmp_path):
    """`state` is all the loop carries from step to step besides tensors; the log's last line must agree
    with it.
    """
    path = T.train(tiny(world, "steps=3"), tmp_path / "run", say=quiet)
    state, last = checkpoint.load(path).state, list(run_folder.read_log(tmp_path / "run/log.jsonl"))[-1]
    assert state["step"] == last["step"] + 1 == 3
    assert round(state["elapsed"], 3) == last["seconds"] and state["skipped"] == state["skipped_in_a_row"] == 0
    assert state["settings"] == load_json(tmp_path / "run/settings.json")


def test_the_clock_goes_on_where_it_stopped(world, tmp_path, monkeypatch):
    """By a clock of its own, on which a step takes an eighth of a second and the wait to be resumed a day."""
    run = tiny(world, "steps=none", "minutes=0.025", "save_steps=none")
    stop_in(monkeypatch, 1)
    monkeypatch.setattr(T, "time", SimpleNamespace(monotonic=count(0, 0.125).__next__))
    with pytest.raises(Restart):
        T.train(run, tmp_path / "run", say=quiet)
    assert checkpoint.load(tmp_path / "run/checkpoints").state["elapsed"] == 0.25
    monkeypatch.setattr(T, "time", SimpleNamespace(monotonic=count(86400, 0.125).__next__))
    T.train(run, tmp_path / "run", resume=True, say=quiet)
    seconds = [r["seconds"] for r in run_folder.read_log(tmp_path / "run/log.jsonl")]
    assert seconds == [step / 8 for step in range(1, 13)]  # 1.5 s are 0.025 minutes
    rates = [r["lr"] for r in log_of(tmp_path / "run")]
    assert rates.index(max(rates)) < len(rates) - 1  # it fell towards the end of the minutes


# ------------------------------------------------------------------------------------------- parts of the
# recipe


NAMES = tuple(OBJECTIVES)


def only(*names):
    return [f"objectives.{name}.weight={float(name in names)}" for name in NAMES]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["data.images=", "data.pairs="], {"mlm.texts", "seq2seq.texts"}),
        (["data.texts=", "data.pairs="], {"image_contrastive"}),
        (["data.texts=", "data.images="], {"cmcl", "itm", "mlm.pairs", "seq2seq.pairs"}),
        (["batch.pairs=0", "batch.images=0"], {"mlm.texts"}),
        (["model.dictionary=0"], {"cmcl", "itm", "mlm.pairs", "image_contrastive"}),
        (only("mlm"), {"mlm.pairs", "mlm.texts"}),
        ([*only("mlm"), "data.pairs=", "data.images="], {"mlm.texts"}),
        (only("seq2seq"), {"seq2seq.pairs", "seq2seq.texts"}),
        (only("cmcl"), {"cmcl"}),
        (only("itm"), {"itm"}),
        (only("image_contrastive"), {"image_contrastive"}),
        (only("itm", "dictionary"), {"itm", "dictionary.entries"}),
        (only("text_contrastive", "dictionary"), {"text_contrastive", "dictionary.entries"}),
        ([*only("cmcl", "dictionary"), "data.images="], {"cmcl", "dictionary.entries"}),
        ([*only("seq2seq", "dictionary"), "data.images="], {"seq2seq.pairs", "dictionary.entries"}),
        ([*only("masked_grounding"), "model.masked_grounding=true"], {"masked_grounding"}),
    ],
    ids=lambda value: None if isinstance(value, set) else ",".join(value)[:60],
)
def test_absent_streams_and_objectives_leave_the_rest_training(world, tmp_path, changes, expected):
    run = tiny(world, "steps=2", "save_steps=none", *changes)
    T.train(run, tmp_path / "run", say=quiet)
    told = {name for record in log_of(tmp_path / "run") for name in record}
    assert expected <= told
    known = {name for objective in run.objectives.active().values() for name in objective.parts}
    assert told - known == {"step", "loss", "norm", "lr"}
    if "data.pairs=" in changes:
        assert not told & {"cmcl", "itm", "mlm.pairs"}


def test_lines_of_progress_fit_a_terminal_and_the_headline_says_what_runs(world, tmp_path):
    said = []
    T.train(tiny(world, "steps=2"), tmp_path / "run", say=said.append)
    headline = next(line for line in said if "M parameters" in line)
    assert "24 pairs" in headline and "1 thread" in headline and "min left" in said[-1][:80]
    assert all(len(line) <= 200 and line.isprintable() for line in said)


# ------------------------------------------------------------------------------------------- bad input


def refused(run, out, kind, match, **options):
    """The run ends with a located error of this kind and with what a user needs to go on."""
    with pytest.raises(kind, match=match) as caught:
        T.train(run, out, say=quiet, **options)
    parts = caught.value.parts()
    assert "where" in parts and parts.keys() & {"expected", "do"}
    return caught.value


@pytest.fixture(scope="module")
def broken(world, tmp_path_factory):
    """Folders of data that cannot be trained on."""
    folder = tmp_path_factory.mktemp("broken")
    for name in ("empty", "loose", "rows", "latin1", "tars"):
        (folder / name).mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"loose/{i}.png")
    rows = [{"image": f"absent-{i}.png", "caption": "a red circle"} for i in range(20)]
    (folder / "rows/captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for i in range(20):
        (folder / f"latin1/{i}.txt").write_bytes(b"caf\xe9 au lait" if i % 2 else b"tea with milk %d" % i)
    data = bytearray(next((world / "pairs").glob("*.tar")).read_bytes())
    data[::4096] = bytes(byte ^ 0xFF for byte in data[::4096])
    (folder / "tars/a.tar").write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("changes", "kind", "match"),
    [
        ([*only("dictionary"), "data.images="], UsageError, "dictionary's loss has no sequence"),
        (["data.pairs={broken}/empty"], DataError, "no pairs found"),
        (["data.pairs={broken}/absent"], DataError, "does not exist"),
        (["data.pairs={broken}/loose"], DataError, "no pairs found"),
        (["data.pairs={broken}/rows"], DataError, "no usable sample"),
        (["data.texts={broken}/latin1"], DataError, "too many bad samples"),
        (["data.pairs={broken}/tars"], DataError, "bad samples|no usable sample"),
        (["batch.pairs=25"], DataError, "fewer pairs than one step"),
        (["steps=none"], UsageError, "how long"),
        (["minutes=1"], UsageError, "how long"),
        (["data.texts=", "data.images=", "data.pairs="], UsageError, "no data"),
        (["batch.pairs=0", "batch.images=0", "batch.text_tokens=0"], UsageError, "no data"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_input_is_refused_before_a_run_begins(world, broken, tmp_path, changes, kind, match):
    refused(tiny(world, *(change.format(broken=broken) for change in changes)), tmp_path / "run", kind, match)
    assert not (tmp_path / "run/settings.json").exists()
    T.run_folder.RunFolder(tmp_path / "run").close()  # still free for the corrected command


def test_objectives_without_their_stream_are_refused_at_the_first_step(world, tmp_path):
    refused(tiny(world, *only("cmcl"), "data.pairs="), tmp_path / "run", UsageError, "had anything to predict")


@pytest.mark.parametrize(
    ("assignments", "match"),
    [
        (["batch.passage_length=65"], "longer than the model"),
        (only(), "no objective"),
        (["keep=1"], "out of range"),
        (["batch.micro_batches=3"], "equal micro-batches"),
        (only("masked_grounding"), "needs a part of the model"),
        (["model.chosen=17"], "more entries are chosen"),
        (["optimizer.warmup=2"], "out of range"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(world, assignments, match):
    with pytest.raises(UsageError, match=match):
        tiny(world, *assignments)


def bad_images(folder, good, bad):
    """A pair per row, some with an image that is cut short, not one at all, or far too large."""
    folder.mkdir()
    kinds = []
    for i in range(good + bad):
        image = Image.effect_noise((32, 32), 90).convert("RGB")
        image.putpixel((0, 0), (i, i, i))
        image.save(folder / f"{i}.png")
        if i >= good:
            kinds.append(("cut", "html", "giant")[i % 3])
            data = (folder / f"{i}.png").read_bytes()
            spoiled = {"cut": data[: len(data) // 2], "html": b"<html>404</html>"}.get(kinds[-1])
            if spoiled is None:
                Image.new("1", (20_000, 3_000)).save(folder / f"{i}.png")  # 60 megapixels in a few kilobytes
            else:
                (folder / f"{i}.png").write_bytes(spoiled)
    rows = [{"image": f"{i}.png", "caption": f"image number {i}"} for i in range(good + bad)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return set(kinds)


def test_a_few_bad_images_are_named_and_training_goes_on(world, tmp_path):
    assert bad_images(tmp_path / "images", good=27, bad=3) == {"cut", "html", "giant"}
    said = []
    run = tiny(world, f"data.pairs={tmp_path / 'images'}", "data.max_bad_fraction=0.15", "steps=7")
    T.train(run, tmp_path / "run", say=said.append)
    assert any(line.startswith("3 of ") and "bad_samples.jsonl" in line for line in said)
    bad = [json.loads(line) for line in (tmp_path / "run/bad_samples.jsonl").read_text().splitlines()]
    assert sorted(entry["key"] for entry in bad) == ["27.png", "28.png", "29.png"]
    assert all({"what", "where"} <= entry.keys() for entry in bad)


def test_too_many_bad_images_stop_the_run_with_the_reasons(world, tmp_path):
    bad_images(tmp_path / "images", good=15, bad=3)
    run = tiny(world, f"data.pairs={tmp_path / 'images'}")
    error = refused(run, tmp_path / "run", DataError, "too many bad samples")
    assert "3 of 18" in error.got and tmp_path / "run/bad_samples.jsonl" == error.where


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_replaced_after_indexing_is_noticed_when_read(tmp_path, monkeypatch, workers):
    own = write_tiny_world(tmp_path / "world")
    run = tiny(own, f"workers={workers}", "data.cache_gb=0", "save_steps=1", "steps=200")
    shard = next((own / "pairs").glob("*.tar"))
    write = run_folder.JsonlLog.write

    def replace(self, **record):
        write(self, **record)
        if record["step"] == 1:  # the same names and sizes, other pixels: only the hash can tell
            data = bytearray(shard.read_bytes())
            with tarfile.open(shard) as tar:
                for member in tar:
                    if member.name.endswith(".png"):
                        data[member.offset_data + member.size // 2] ^= 1
            with shard.open("r+b") as file:
                file.write(data)

    monkeypatch.setattr(run_folder.JsonlLog, "write", replace)
    error = refused(run, tmp_path / "run", DataError, "changed since it was indexed")
    assert str(shard) in error.where and "key" in error.where and len(error.one_line()) < 1000
    assert checkpoint.latest(tmp_path / "run/checkpoints") is not None
    monkeypatch.undo()


def test_a_full_disk_while_saving_leaves_the_last_checkpoint(world, tmp_path):
    def full(kind, path, *_):
        if kind == "write" and "step-00000004" in path and "optimizer" in path:
            raise OSError(28, "No space left on device")

    with disk_events(full):
        error = refused(tiny(world), tmp_path / "run", ResourceError, "disk full")
    assert "free" in error.do
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002"]
    T.train(tiny(world), tmp_path / "run", resume=True, say=quiet)
    assert [r["step"] for r in log_of(tmp_path / "run")] == list(range(6))


def test_a_folder_in_use_a_folder_with_a_run_and_a_folder_without_one(world, undisturbed, tmp_path):
    out, _ = undisturbed
    before = log_of(out)
    refused(tiny(world), out, UsageError, "already holds a run")
    assert log_of(out) == before
    with run_folder.RunFolder(out):
        error = refused(tiny(world), out, ResourceError, "in use", resume=True)
        assert str(os.getpid()) in error.got
    refused(tiny(world), tmp_path / "none", UsageError, "no run to resume", resume=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("")
    refused(tiny(world), tmp_path / "thesis", UsageError, "files but no run")
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_every_error_of_this_room_has_an_exit_code():
    kinds = (UsageError, DataError, WeightsError, ResourceError, NumericsError, Restart)
    assert [kind.exit_code for kind in kinds] == [2, 3, 4, 5, 6, 75] and issubclass(Restart, UnimoError)
