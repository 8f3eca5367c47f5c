"""Several processes train like one: the same samples, loss and weights, and one fate when stopped or failing.

This file is also a script (`stage.py`) that forks the ranks of each scenario over gloo.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import signal
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from dying import disk_events
from stage import serve, stage
from tiny_run import log_of, quiet, tiny, warm_up

from unimo import checkpoint, distributed
from unimo.cli.failures import print_error
from unimo.errors import DataError, UnimoError
from unimo.objectives import objective as objectives
from unimo.train import data as opening
from unimo.train import loop as T
from unimo.train import run_folder

PLAIN = (
    "batch.micro_batches=2", "batch.text_tokens=64", "steps=5", "save_steps=100", "save_minutes=100",
    "model.dropout=0", "model.attention_dropout=0",
)  # fmt: skip
FOR_FOUR = ("batch.micro_batches=4", "batch.pairs=8", "batch.images=4", "batch.text_tokens=128")
STOPPED = {  # scenario -> what is held, by how many processes, and by how many that go on
    "parts, then one": ("fsdp", 2, 1),
    "one, then parts": ("fsdp", 1, 2),
    "parts, then four": ("fsdp", 2, 4),
    "copies, then four": ("ddp", 2, 4),
}
MUON_IN_PARTS = ("parallel=fsdp", "optimizer.matrix_optimizer=muon")
RATE = 1e-5  # weights are compared while Adam's first steps, of the sign of tiny gradients, are still small


# ---------------------------------------------------------------------------------------------- the ranks


def ranks_of(world_size: int, job, folder: Path) -> list[dict]:
    """Runs work(rank) in forked ranks; of each: code, parts of its error, hash of its weights.

    The ranks meet at a store of this process, as torchrun's do: it holds a free port from the start.
    """
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    meeting |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    children = []
    for rank in range(world_size):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
            os.environ |= meeting
            told: dict = {"code": 0}
            try:
                told["path"] = str(job(rank))
            except UnimoError as error:
                told |= {"code": error.exit_code, "kind": type(error).__name__, **error.parts()}
                with contextlib.redirect_stderr(io.StringIO()) as stderr:
                    print_error(error)
                told["said"] = stderr.getvalue()
            except BaseException as error:
                told |= {"code": 70, "kind": type(error).__name__, "what": str(error)[:500]}
            told["hash"] = MODELS[-1]() if MODELS else None
            (folder / f"rank{rank}.json").write_text(json.dumps(told))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    files = [folder / f"rank{rank}.json" for rank in range(world_size)]
    return [json.loads(file.read_text()) if file.exists() else {"code": None} for file in files]


MODELS: list = []


class Remembered(T.TrainStep):
    """Keeps the model, so that every rank's weights can be compared in the end."""

    def __init__(self, model, active):
        super().__init__(model, active)
        MODELS.append(
            lambda: hashlib.sha256(b"".join(held(p).numpy().tobytes() for p in model.parameters())).hexdigest()
        )


def held(parameter) -> torch.Tensor:
    """What this process holds of it."""
    return (parameter.to_local() if hasattr(parameter, "to_local") else parameter).detach()


def in_step(step, act):
    """Acts in the middle of a step."""
    real = objectives.step

    def acting(model, batch, active):
        parts, fused = real(model, batch, active)
        return (act(parts) or parts if batch.step == step else parts), fused

    objectives.step = acting


def spoiled(parts):
    return {**parts, "cmcl": replace(parts["cmcl"], total=parts["cmcl"].total * float("nan"))}


def scenario(name: str, world: Path, folder: Path) -> dict:
    out = folder / "run"
    run = tiny(world, *PLAIN)

    def job(rank, run=run, resume=False):
        return T.train(run, out, resume=resume, say=quiet)

    if name == "same":
        run = tiny(world, *PLAIN, f"optimizer.lr={RATE}")
        (folder / "one").mkdir()
        alone = ranks_of(1, lambda rank: T.train(run, folder / "one/run", say=quiet), folder / "one")
        return {"alone": alone, "ranks": ranks_of(2, lambda rank: job(rank, run), folder)}
    if name == "uneven":  # bins of one passage: a step may have nothing to mask, or to write, on one rank
        few = [f"objectives.{o}.weight=0" for o in ("cmcl", "itm", "image_contrastive")]
        few += ["data.pairs=", "data.images=", "batch.text_tokens=64", "steps=8", f"optimizer.lr={RATE}"]
        run = tiny(world, *PLAIN, *few)
        (folder / "one").mkdir()
        alone = ranks_of(1, lambda rank: T.train(run, folder / "one/run", say=quiet), folder / "one")
        return {"alone": alone, "ranks": ranks_of(2, lambda rank: job(rank, run), folder)}
    if name == "never stopped":
        run = tiny(world, *PLAIN, *FOR_FOUR, f"optimizer.lr={RATE}")
        return {"ranks": ranks_of(1, lambda rank: job(rank, run), folder)}
    if name in STOPPED:
        held_as, first, then = STOPPED[name]
        run = tiny(world, *PLAIN, *FOR_FOUR, f"optimizer.lr={RATE}", f"parallel={held_as}")

        def stopped(rank):
            in_step(2, lambda _: os.kill(os.getpid(), signal.SIGTERM))
            return job(rank, run)

        told = {"stopped": ranks_of(first, stopped, folder)}
        return told | {"ranks": ranks_of(then, lambda rank: job(rank, run, resume=True), folder)}
    if name == "muon in parts":
        return {"ranks": ranks_of(2, lambda r: job(r, tiny(world, *PLAIN, *MUON_IN_PARTS)), folder)}
    if name == "minutes":
        run = tiny(world, *PLAIN, "steps=none", "minutes=0.025")

        def by_its_own_clock(rank):  # a step takes an eighth of a second here and a quarter there
            T.time = SimpleNamespace(monotonic=count(0, 0.125 * (rank + 1)).__next__)
            return job(rank, run)

        return {"ranks": ranks_of(2, by_its_own_clock, folder)}
    if name == "recompute":
        run = tiny(world, *PLAIN, "activation_checkpointing=true", "steps=2")
        return {"ranks": ranks_of(2, lambda rank: job(rank, run), folder)}

    def acting(rank, at, who, act):
        if rank == who:
            in_step(at, act)
        return job(rank)

    if name == "sigterm":
        stopped = ranks_of(2, lambda r: acting(r, 2, 1, lambda _: os.kill(os.getpid(), signal.SIGTERM)), folder)
        left = [p.name for p in (out / "checkpoints").iterdir()]
        return {
            "stopped": stopped,
            "left": left,
            "ranks": ranks_of(2, lambda r: job(r, resume=True), folder),
        }
    if name == "nan":
        return {"ranks": ranks_of(2, lambda r: acting(r, 2, 1, spoiled), folder)}
    if name == "first killed":
        return {"ranks": ranks_of(2, lambda r: acting(r, 2, 0, lambda _: os.kill(os.getpid(), 9)), folder)}
    if name == "waited for":  # rank 0 waits in a collective step while rank 1 is killed

        def killed_while_opening(rank):
            if rank == 1:
                opening.check_sizes = lambda *_: os.kill(os.getpid(), 9)
            return job(rank)

        return {"ranks": ranks_of(2, killed_while_opening, folder)}
    if name == "killed":
        return {"ranks": ranks_of(2, lambda r: acting(r, 2, 1, lambda _: os.kill(os.getpid(), 9)), folder)}
    if name == "reader":

        def fail(_):
            raise DataError("sample changed", where="pairs.tar, key 7", do="restore it")

        return {"ranks": ranks_of(2, lambda r: acting(r, 2, 1, fail), folder)}
    if name == "refused":  # what only the first rank looks at: a folder in use
        with run_folder.RunFolder(out):
            return {"ranks": ranks_of(2, job, folder)}
    if name == "disk":

        def full(kind, path, *_):
            if kind == "write" and "optimizer" in path:
                raise OSError(28, "No space left on device")

        def without_space(rank):
            with disk_events(full):
                return job(rank)

        return {"ranks": ranks_of(2, without_space, folder)}
    if name == "shards":
        return {"ranks": ranks_of(2, lambda r: job(r, tiny(world, *PLAIN, "batch.micro_batches=1")), folder)}
    if name == "bug":  # an error nobody foresaw, on one rank, while the other waits

        def broken(rank):
            if rank == 1:
                opening.check_sizes = lambda *_: 1 / 0
            return job(rank)

        return {"ranks": ranks_of(2, broken, folder)}
    raise ValueError(name)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Plays a scenario by its name: (what happened, its folder)."""
    folder = tmp_path_factory.mktemp("ranks")
    with stage(__file__, folder) as play:
        yield functools.cache(lambda name: (play(name), folder / name))


# ---------------------------------------------------------------------------------------------- the tests


def test_two_processes_train_like_one(played):
    """Dropout off, since it is drawn per rank. Tolerances: 1e-5 of each loss; 5e-7 + 1e-5 of each weight."""
    told, folder = played("same")
    assert [r["code"] for r in told["alone"] + told["ranks"]] == [0, 0, 0], told
    assert told["ranks"][0]["hash"] == told["ranks"][1]["hash"]  # ranks stay equal to the last bit
    assert_same_run(folder / "one/run", folder / "run", steps=5)


def assert_same_run(first: Path, second: Path, steps: int) -> None:
    """The same losses in every step, and the same weights after the last."""
    one, two = log_of(first), log_of(second)
    assert len(one) == len(two) == steps
    for a, b in zip(one, two):
        assert a.keys() == b.keys()
        assert {k: pytest.approx(v, rel=1e-5, abs=1e-7) for k, v in a.items() if k != "norm"}.items() <= b.items()
        assert a["norm"] == pytest.approx(b["norm"], rel=1e-3)
    ends = [checkpoint.load(p / "checkpoints", groups=["model"]).tensors["model"]
            for p in (first, second)]  # fmt: skip
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-5, atol=5e-7, msg=name)


@pytest.mark.parametrize("name", STOPPED)
def test_a_stopped_run_goes_on_with_any_number_of_processes_as_if_it_had_been_one(played, name):
    """Stopped after three of five steps, against one process that was not; tolerances as above."""
    told, folder = played(name)
    assert all(r["code"] == 75 for r in told["stopped"]) and all(r["code"] == 0 for r in told["ranks"]), told
    assert_same_run(played("never stopped")[1] / "run", folder / "run", steps=5)


def test_muon_is_refused_where_no_process_holds_a_whole_matrix(played):
    for one in played("muon in parts")[0]["ranks"]:
        assert one["code"] == 2 and "Muon" in one["what"] and "matrix_optimizer" in one["where"]


def test_a_step_without_a_word_to_write_trains_alike_in_one_process_and_two(played):
    told, folder = played("uneven")
    assert [r["code"] for r in told["alone"]] == [0], told
    assert_same_run(folder / "one/run", folder / "run", steps=8)


@pytest.mark.parametrize("name", ["uneven", "minutes", "recompute"])
def test_ranks_stay_equal_where_one_has_less_to_ask_or_another_clock(played, name):
    told, folder = played(name)
    told = told["ranks"]
    assert [r["code"] for r in told] == [0, 0], told
    assert told[0]["hash"] == told[1]["hash"]
    steps = [record["step"] for record in log_of(folder / "run")]
    assert steps == list(range({"uneven": 8, "minutes": 8, "recompute": 2}[name]))  # 1.5 s in steps of 3/16 s


def test_a_signal_to_one_process_stops_all_at_the_same_step_with_one_checkpoint(played):
    told, folder = played("sigterm")
    assert [r["code"] for r in told["stopped"]] == [75, 75], told
    assert told["stopped"][0]["hash"] == told["stopped"][1]["hash"] and told["left"] == ["step-00000003"]
    assert all("after step 2" in one["what"] for one in told["stopped"])
    assert [r["code"] for r in told["ranks"]] == [0, 0]
    assert [record["step"] for record in log_of(folder / "run")] == list(range(5))


def test_a_loss_that_is_not_finite_on_one_process_is_skipped_by_all_and_names_every_sample(played):
    told, folder = played("nan")
    told = told["ranks"]
    assert [r["code"] for r in told] == [0, 0] and told[0]["hash"] == told[1]["hash"]
    skipped = [record for record in log_of(folder / "run") if "skipped" in record]
    assert [record["step"] for record in skipped] == [2]
    assert len(skipped[0]["skipped"]["pairs"]) == 4  # of both ranks


@pytest.mark.parametrize(
    ("name", "codes", "said"),
    [
        ("refused", [5, 5], "the output folder is in use"),
        ("disk", [5, 5], "disk full"),
        ("shards", [2, 2], "the micro-batches of a step cannot be shared equally among the processes"),
        ("bug", [5, 70], "another process of the run failed"),
        ("reader", [5, 3], "another process of the run ended"),
        ("killed", [5, None], "another process of the run ended"),
    ],
)
def test_when_one_process_fails_all_end_with_a_reason(played, name, codes, said):
    told, folder = played(name)
    told = told["ranks"]
    assert [r["code"] for r in told] == codes, told
    assert told[0]["what"].startswith(said) and told[0].keys() & {"do", "expected"}
    if name == "disk":
        assert not list((folder / "run/checkpoints").iterdir())


@pytest.mark.parametrize(
    ("name", "who", "by", "words"),
    [
        ("reader", 0, 1, "sample changed"),
        ("killed", 0, 1, "gone"),
        ("first killed", 1, 0, "gone"),
        ("waited for", 0, 1, "gone"),
    ],
)
def test_case_a_process_that_is_left_alone_says_which_one_ended(played, name, who, by, words):
    told = played(name)[0]["ranks"][who]
    assert told["kind"] == "ResourceError" and f"rank {by}: " in told["where"] and words in told["where"], told
    assert f"error on rank {who}: another process" in told["said"] and f"rank {by}: " in told["said"]


def test_case_every_process_speaks(played):
    """The one that failed in full or in a line; one that only hears of it says whose error it is."""
    first, second = (told["said"] for told in played("reader")[0]["ranks"])
    assert second.startswith("error on rank 1: sample changed | where: pairs.tar, key 7") and second.count("\n") == 1
    assert first.count("\n") > 1
    first, second = (told["said"] for told in played("refused")[0]["ranks"])
    assert first.startswith("error on rank 0: the output folder is in use\n  where:")
    assert second == "rank 1 ends: error on rank 0: the output folder is in use\n"
    assert played("bug")[0]["ranks"][0]["said"].startswith("error on rank 1: another process of the run failed")


def test_alone_every_collective_step_is_the_identity():
    x = torch.arange(3.0, requires_grad=True)
    assert distributed.gather(x) is x and torch.equal(distributed.total(x), x.detach())
    assert distributed.mean(0.1, 2.0) == [0.1, 2.0] and distributed.everyone("a") == ["a"]
    assert (distributed.rank(), distributed.world()) == (0, 1)
    with pytest.raises(ZeroDivisionError), distributed.collective_errors():
        1 / 0  # noqa: B018


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    T.matmul_rate = lambda *_: 1e9
    T.TrainStep = Remembered
    world = warm_up(folder)

    def play(name: str) -> dict:
        (folder / name).mkdir()
        return scenario(name, world, folder / name)

    serve(play)
