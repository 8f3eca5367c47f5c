"""The report balances, names every bad sample once, and stops a run exactly beyond the fraction it was given."""

from __future__ import annotations

import json
import multiprocessing

import pytest

from unimo.corpus.bad_samples import BadSamples
from unimo.errors import DataError, ResourceError, UnimoError


def error(what="cannot decode image"):
    return DataError(what, where="a.tar, key 3", got="<b>\nforged line", expected="an image", do="replace it")


def fill(path, offered, quarantined):
    bad = BadSamples(path)
    bad.offer(offered)
    bad.use(offered - quarantined)
    for number in range(quarantined):
        bad.add(error(), key=str(number), shard="a.tar")
    return bad


def test_lines_hold_the_parts_of_the_error_and_known_samples_are_counted_not_written_again(tmp_path):
    path = tmp_path / "new" / "bad.jsonl"
    assert fill(path, 5, 2).summary()["reasons"] == {"cannot decode image": 2}
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(e["shard"], e["key"], e["what"]) for e in entries] == [("a.tar", n, "cannot decode image") for n in "01"]
    assert {"where", "got", "expected", "do", "first_seen"} <= entries[1].keys()
    with path.open("a") as stream:
        stream.write('{"shard": "torn by a kill')
    again = fill(path, 3, 2)
    assert again.quarantined == 2 and path.read_text().count("forged") == 2
    again.add(error(), key="new", shard="a.tar")
    assert json.loads(path.read_text().splitlines()[-1])["key"] == "new"  # not glued to the torn line


@pytest.mark.parametrize(
    "offered, quarantined, stops", [(1000, 10, False), (1000, 11, True), (9, 9, False), (10, 1, True)]
)
def test_stops_exactly_beyond_the_fraction(offered, quarantined, stops, tmp_path):
    bad = fill(tmp_path / "bad.jsonl", offered, quarantined)
    if not stops:
        return bad.check(0.01)
    with pytest.raises(DataError, match=f"{quarantined} of {offered}.*cannot decode image") as caught:
        bad.check(0.01)
    assert "bad.jsonl" in str(caught.value.where)


def test_faults_of_ours_and_of_the_disk_are_told_apart(tmp_path):
    bad = BadSamples()
    bad.offer()
    with pytest.raises(UnimoError) as caught:
        bad.check()
    assert caught.value.exit_code == 70
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError):
        fill(tmp_path / "file" / "bad.jsonl", 1, 1)
    with pytest.raises(ResourceError, match="cannot read the report"):  # not taken for an empty one
        BadSamples(tmp_path)


def _append(path, name):
    bad = BadSamples(path)
    for number in range(200):
        bad.add(error("w" * 500), key=f"{name}-{number}", shard="a")


def test_processes_share_the_file_without_tearing_lines(tmp_path):
    path = tmp_path / "bad.jsonl"
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_append, args=(path, name)) for name in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert len({json.loads(line)["key"] for line in path.read_text().splitlines()}) == 600
