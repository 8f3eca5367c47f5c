"""The script for whoever has a GPU runs through without one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "gpu_check.py"


def test_every_check_runs_small_on_a_cpu(tmp_path):
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main(["--device", "cpu", "--tiny", "--out", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert max(found["attention"]["dense"].values()) < 1e-5
    assert found["step"]["recompiled after the first steps"] == 0 and found["step"]["foretold GiB"] > 0
    assert found["levers"].keys() == {*script.LEVERS, "dense attention"}
    assert all(rate > 0 for rate in (*found["products"].values(), *found["answers"].values()))


def test_a_check_that_fails_leaves_the_others_their_turn(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name in ("products", "attention", "levers", "answers", "peers"):
        monkeypatch.setattr(script.Check, name, lambda _: {"done": True})
    monkeypatch.setattr(script.Check, "step", lambda _: 1 / 0)
    assert script.main(["--device", "cpu", "--tiny", "--out", str(tmp_path / "found.json")]) == 1
    found = json.loads((tmp_path / "found.json").read_text())
    assert "ZeroDivisionError" in found["step"]["error"] and found["peers"] == {"done": True}
