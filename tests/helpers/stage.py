"""A process of its own that imports torch once and plays scenes: JSON lines in, JSON lines out.

For what forks and then trains: a process that has used a GPU, or has threads, cannot. A scene is asked for by the test
that needs it, so that each test waits for its own alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def stage(script: str, folder: Path) -> Iterator[Callable[..., dict]]:
    """Runs `python script folder`, which calls `serve`; yields played(*request) -> what that returned."""
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment = {**alone, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, script, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as player:

        def played(*request: object) -> dict:
            print(json.dumps(request), file=player.stdin, flush=True)
            told = next((line for line in player.stdout if line.startswith("{")), None)  # gloo has lines of its own
            assert told is not None, "the player ended: see its message"
            return json.loads(told)

        yield played
        player.stdin.close()


def serve(play: Callable[..., dict]) -> None:
    """Answers each request with play(*request) until there are no more."""
    for request in sys.stdin:
        print(json.dumps(play(*json.loads(request))), flush=True)
