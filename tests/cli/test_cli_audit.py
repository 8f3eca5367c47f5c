"""Every verb with bad inputs ends by the contract of errors, with a code and a message, never as a fault of ours."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tiny_task import write_start
from typer.main import get_command

from unimo.cli import app, main
from unimo.errors import UnimoError

ALL = "UNIMO_DRAWS" in os.environ  # a release is tried with every place at every verb
# Places that are not what a verb wants: {bad} stands for each of them.
BAD = ("missing", "empty", "text.txt", "broken.json", "list.json", "image.png", "\N{SNOWMAN}" * 300, "nul.bin")
# Verb -> its arguments, {bad} in one place; OUT is a new place.
PLACES = [
    "pretrain {bad}", "pretrain scenes --pairs {bad} --out OUT", "pretrain scenes --texts {bad} --out OUT",
    "pretrain photos --images {bad} --out OUT", "pretrain scenes --init-from {bad} --texts TEXTS --out OUT "
    "--no-evaluate --set batch.text_tokens=64 --set model.width=8 --set model.heads=1 --steps 1",
    "evaluate {bad}", "evaluate RUN --out OUT --pairs {bad}", "evaluate RUN --out OUT --set world={bad}",
    "pretrain photos --val-pairs {bad} --texts TEXTS --out OUT",
    "finetune {bad} --init-from RUN",
    "finetune sst2 --init-from {bad} --train ROWS", "finetune sst2 --init-from RUN --train {bad}",
    "finetune classification --init-from RUN --train ROWS --dev {bad} --out OUT",
    "finetune classification --init-from RUN --train ROWS --images {bad} --out OUT",
    "benchmark RUN --out OUT --plan {bad}", "benchmark {bad} --out OUT",
    "predict {bad} --data ROWS --out OUT", "predict RUN --data {bad} --out OUT", "compare {bad} {bad}",
    "evaluate RUN --out OUT --texts {bad}", "evaluate RUN --out OUT --images {bad}", "recipes {bad}", "describe {bad}",
    "index {bad} --out OUT --texts TEXTS", "index RUN --out OUT --texts {bad}", "index RUN --out OUT --images {bad}",
    "search {bad} --text dog", "caption {bad} image.png", "caption RUN {bad}", "fill-mask {bad} [MASK]",
    "fill-mask RUN [MASK] --image {bad}", "classify {bad} image.png --names a,b", "classify RUN {bad} --names a,b",
    "convert {bad} OUT", "init-from-pretrained OUT --roberta {bad}", "init-from-pretrained OUT --vit {bad}",
    "init-from-pretrained OUT --recipe {bad} --vit {bad}", "data check texts {bad}", "data check images {bad}",
    "data check pairs {bad}", "prepare regions images {bad}", "prepare regions images {bad} --source truth",
    "prepare rewrites {bad}", "prepare neighbours --pairs {bad} --out OUT --texts TEXTS",
    "prepare neighbours --pairs {bad} --out OUT --images {bad}", "encode {bad} image.png", "encode RUN {bad}",
    "answer RUN what? {bad}", "download {bad}", "sweep {bad} --init-from RUN", "export {bad} OUT",
    "serve {bad}", "speed {bad}", "speed --compare {bad} {bad}", "plan {bad}",
]  # fmt: skip
WRONG = [
    "pretrain scenes --set model.patch=0", "pretrain scenes --set optimiser.rate=1", "pretrain scenes --minutes nan",
    "pretrain scenes --steps -1", "pretrain scenes --set x", "pretrain bert", "pretrain scenes --set device=cpu",
    "pretrain scenes --seed 1.5", "evaluate RUN --set shortlist=-1", "evaluate RUN --set tasks=x --out OUT",
    "finetune bert --init-from RUN",
    "finetune sst2 --init-from RUN --set batch_size=0",
    "finetune sst2 --init-from random", "sweep sst2 --init-from RUN --grid x --train ROWS --out OUT",
    "sweep sst2 --init-from RUN --grid optimizer.lr=-1 --train ROWS --out OUT",
    "sweep sst2 --init-from RUN --seeds 0",
    "finetune sst2 --init-from RUN --recipe x", "finetune sst2 --init-from RUN --epochs 0",
    "finetune sst2 --init-from RUN",
    "finetune sst2 --init-from RUN --column x --train ROWS --out OUT", "finetune sst2 --init-from RUN --batch-size 0",
    "finetune sst2 --init-from RUN --reader x --train ROWS --out OUT", "describe scenes --set heads=7",
    "plan x", "plan scenes --gpus 7",
    "describe scenes --set width=1000000000", "describe RUN --set model.size=huge", "speed x",
    "speed sharing --size huge", "search RUN", "search RUN --top-k 0",
    "search RUN --text x --only x", "caption RUN image.png --num-beams 0", "fill-mask RUN text-without-mask",
    "fill-mask RUN [MASK] --top-k 0", "classify RUN image.png --names ,", "convert RUN OUT --ours",
    "answer RUN what? image.png", "encode RUN image.png --out x.xlsx", "caption RUN image.png --device x",
    "caption RUN image.png --precision fp16 --device cpu", "download x", "caption RUN image.png --batch-size 0",
    "export RUN .", "serve RUN --port -1", "export RUN OUT --precision x", "export RUN OUT --texts dog",
    "export RUN OUT --precision int8 --images missing",
    "init-from-pretrained OUT",
    "init-from-pretrained OUT --set model.heads=7 --vit x", "data check x TEXTS", "data check texts TEXTS --verify x",
    "data check texts TEXTS --max-bad-fraction nan", "data check texts TEXTS --max-bad-fraction -1",
    "prepare regions images image.png --source x", "prepare regions images image.png --precision x",
    "prepare regions x image.png", "prepare rewrites TEXTS --positives -1",
    "prepare rewrites TEXTS --max-similarity nan",
    "prepare rewrites TEXTS --translate x", "prepare neighbours --pairs TEXTS --out OUT --set pool=0",
    "prepare neighbours --pairs TEXTS --out OUT", "prepare neighbours --pairs TEXTS --out OUT --set x=1",
    "x", "prepare x",
    "index RUN --out OUT", "index RUN --out OUT --texts TEXTS --max-bad-fraction 2",
    "index RUN --out OUT --texts TEXTS --passage 0", "compare RUN", "compare RUN RUN",
    "predict RUN --data ROWS --out missing/there",
    "benchmark RUN --out OUT --minutes nan",
    "evaluate RUN --minutes nan --out OUT", "recipes bert", "pretrain scenes --resume --out OUT",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("audit")
    write_start(folder / "RUN")
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("a line\n")
    (folder / "broken.json").write_text('{"model": ')
    (folder / "list.json").write_text("[1, 2]\n")
    (folder / "nul.bin").write_bytes(bytes(64))
    (folder / "ROWS").with_suffix(".csv").write_text("text,label\n" + "a film,1\nno film,0\n" * 4)
    (folder / "TEXTS").mkdir()
    (folder / "TEXTS/a.txt").write_text("a first text\n\na second text\n")
    Image.new("RGB", (16, 16), (200, 30, 30)).save(folder / "image.png")
    return folder


def ended(command: str, folder: Path, monkeypatch, capsys) -> tuple[int, str]:
    """The code and what was printed. Places written large are those of the fixture."""
    words = [{"ROWS": "ROWS.csv"}.get(word, word) for word in command.split()]
    monkeypatch.chdir(folder)
    monkeypatch.delenv("UNIMO_TRACEBACK", raising=False)
    monkeypatch.setattr(sys, "argv", ["unimo", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    said = capsys.readouterr()
    return caught.value.code or 0, said.out + said.err


def judge(command: str, code: int, told: str) -> None:
    assert code not in (0, 1, UnimoError.exit_code), f"{command}: {code}\n{told[-1500:]}"
    assert "Traceback" not in told, command
    assert "error: " in told or "Error" in told or "Usage:" in told, (command, told)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad[:12])
def test_bad_places_end_by_the_contract(folder, monkeypatch, capsys, bad):
    for i, command in enumerate(PLACES):
        if not ALL and (i + BAD.index(bad)) % 4:
            continue  # each place with every fourth verb, each verb with two places
        filled = command.replace("{bad}", bad)
        if (bad, command.split()[0]) in {("text.txt", "prepare"), ("text.txt", "index"), ("image.png", "prepare")}:
            continue  # that is what these read
        if bad == "image.png" and command.split()[0] in (
            "caption",
            "fill-mask",
            "classify",
            "encode",
            "answer",
            "index",
        ):
            continue
        if bad in ("text.txt", "image.png") and command.startswith(
            ("pretrain scenes --texts", "pretrain photos --images")
        ):
            continue
        code, told = ended(filled, folder, monkeypatch, capsys)
        judge(filled, code, told)
    assert not (folder / "OUT/settings.json").exists()


def test_wrong_words_end_by_the_contract(folder, monkeypatch, capsys):
    faults = []
    for command in WRONG:
        code, told = ended(command, folder, monkeypatch, capsys)
        try:
            judge(command, code, told)
        except AssertionError as fault:
            faults.append(str(fault))
    assert not faults, "\n".join(faults)


def test_every_verb_is_tried():
    group = get_command(app)
    verbs = {name for name in group.commands if name != "prepare"}
    verbs |= {f"prepare {name}" for name in group.commands["prepare"].commands}
    for commands in (PLACES, WRONG):
        assert {verb for verb in verbs if any(command.startswith(verb) for command in commands)} == verbs
