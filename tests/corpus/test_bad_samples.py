"""The ledger balances, names every bad sample once, and stops a run exactly beyond the share it was given."""

from __future__ import annotations

import json
import multiprocessing

import pytest

from unimo.corpus.bad_samples import Ledger
from unimo.errors import DataError, ResourceError, UnimoError


def bad(what="cannot decode image"):
    return DataError(what, where="a.tar, key 3", got="<b>\nforged line", expected="an image", do="replace it")


def fill(ledger, offered, quarantined):
    ledger.offer(offered)
    ledger.use(offered - quarantined)
    for number in range(quarantined):
        ledger.add(bad(), key=str(number), shard="a.tar")
    return ledger


def test_lines_hold_the_parts_of_the_error(tmp_path):
    ledger = fill(Ledger(tmp_path / "new" / "bad_samples.jsonl"), 5, 2)
    lines = ledger.path.read_text().splitlines()
    assert len(lines) == 2
    entry = json.loads(lines[1])
    assert (entry["shard"], entry["key"], entry["what"]) == ("a.tar", "1", "cannot decode image")
    assert {"where", "got", "expected", "do", "first_seen"} <= entry.keys()
    assert ledger.summary()["reasons"] == {"cannot decode image": 2}


def test_a_known_sample_is_counted_again_but_not_written_again(tmp_path):
    path = tmp_path / "bad.jsonl"
    fill(Ledger(path), 3, 2)
    with path.open("a") as stream:
        stream.write('{"shard": "torn by a kill')
    again = fill(Ledger(path), 3, 2)
    assert again.quarantined == 2 and path.read_text().count("forged") == 2
    again.add(bad(), key="new", shard="a.tar")
    assert json.loads(path.read_text().splitlines()[-1])["key"] == "new"  # not glued to the torn line


@pytest.mark.parametrize(
    "offered, quarantined, stops", [(1000, 10, False), (1000, 11, True), (9, 9, False), (10, 1, True)]
)
def test_stops_exactly_beyond_the_share(offered, quarantined, stops, tmp_path):
    ledger = fill(Ledger(tmp_path / "bad.jsonl"), offered, quarantined)
    if not stops:
        return ledger.check(0.01)
    with pytest.raises(DataError) as caught:
        ledger.check(0.01)
    assert f"{quarantined} of {offered}" in caught.value.got and "cannot decode image" in caught.value.got
    assert "bad.jsonl" in str(caught.value.where)


def test_a_count_that_does_not_balance_is_our_fault():
    ledger = Ledger()
    ledger.offer(3)
    ledger.use(2)
    with pytest.raises(UnimoError) as caught:
        ledger.check()
    assert caught.value.exit_code == 70


def test_an_unwritable_file_is_a_resource_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError):
        fill(Ledger(tmp_path / "file" / "bad.jsonl"), 1, 1)


def _append(path, name):
    ledger = Ledger(path)
    for number in range(200):
        ledger.add(bad("w" * 500), key=f"{name}-{number}", shard="a")


def test_processes_share_the_file_without_tearing_lines(tmp_path):
    path = tmp_path / "bad.jsonl"
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_append, args=(path, name)) for name in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    keys = {json.loads(line)["key"] for line in path.read_text().splitlines()}
    assert len(keys) == 600
