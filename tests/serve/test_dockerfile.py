"""The Dockerfile, read and not built: what it copies is there, and its commands are those of the documentation."""

from __future__ import annotations

import inspect
import json
import re
from fnmatch import fnmatch
from pathlib import Path

import typer

from unimo.cli import app
from unimo.cli.serve import serve

ROOT = Path(__file__).resolve().parents[2]
LINES = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
STEPS = [tuple(line.split(maxsplit=1)) for line in LINES]
GUIDE = (ROOT / "docs/how-to/serve.md").read_text()


def of(name: str) -> list[str]:
    return [rest for step, rest in STEPS if step == name]


def test_what_is_copied_is_there_and_not_kept_from_the_build():
    ignored = (ROOT / ".dockerignore").read_text().split()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    copied = [source for rest in of("COPY") for source in rest.split()[:-1]]
    assert ignored[0] == "*" and copied
    for source in copied:
        assert (ROOT / source).exists() and any(fnmatch(source, each) for each in kept), source
    project = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'^readme = "(.+)"', project, re.M)[1] in copied and "unimo" in copied


def test_it_installs_what_the_guide_installs():
    torch = re.search(r'"(torch[^"]*)"', (ROOT / "pyproject.toml").read_text())[1]
    assert f'"{torch}"' in of("RUN")[0]  # another one would be replaced by a build with CUDA
    extras = re.findall(r'"\.(\[[\w,]+\])"', "\n".join(of("RUN")))
    assert extras == re.findall(r'^pip install -e "\.(\[[\w,]+\])"', GUIDE, re.M)


def test_it_serves_as_somebody_without_rights_at_the_port_that_is_published():
    names = [step for step, _ in STEPS]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in ("RUN", "COPY"))
    (user,) = of("USER")
    assert f"useradd --create-home {user}" in "\n".join(of("RUN")) and of("WORKDIR")[-1] == f"/home/{user}"
    port = str(inspect.signature(serve).parameters["port"].default)
    assert of("EXPOSE") == [port]
    for page in (GUIDE, (ROOT / "Dockerfile").read_text()):
        published = re.findall(r"docker run.* -p (\S+).* -v \S+:(\S+):ro", page)
        assert published and {*published} == {(f"127.0.0.1:{port}:{port}", f"/home/{user}/runs")}


def test_its_command_is_one_of_the_command_line():
    command = [*json.loads(of("ENTRYPOINT")[0]), *json.loads(of("CMD")[0])]
    group = typer.main.get_command(app)
    verb, *options = command[1:]
    read = group.commands[verb].make_context(verb, list(options), resilient_parsing=True)
    assert command[0] == "unimo" and read.params["host"] == "0.0.0.0"
