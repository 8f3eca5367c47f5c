"""Faults of the machine (memory, loader processes, the network) as errors that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from unimo import distributed
from unimo.errors import ResourceError

ENDED = "another process of the run ended or cannot be reached"

# What torch says when the machine gives out, in whatever class it says it -> what to tell, and what to do.
FAULTS = (
    (
        ("out of memory", "not enough memory", "can't allocate memory", "Cannot allocate memory"),
        "out of memory",
        "a smaller batch (batch.pairs, batch.images, batch.text_tokens) or model, or activation_checkpointing=true",
    ),
    (
        ("DataLoader worker", "DataLoader timed out"),
        "a loader process died or hangs",
        "look for the system's out-of-memory killer; fewer workers or a smaller data.cache_gb; then resume",
    ),
    (
        (
            "Connection closed by peer",
            "Connection reset",
            "Broken pipe",
            "Timed out waiting",
            "NCCL error",
            "gloo/transport",
        ),
        ENDED,
        "see that process's own message, then resume",
    ),
)


@contextlib.contextmanager
def located_faults() -> Iterator[None]:
    """Turns torch's errors about memory, loader processes and the network into a ResourceError that says
    what to do. Of several processes, one that fails leaves word for the others, who say which it was.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as fault:
        text = "out of memory" if isinstance(fault, MemoryError) else str(fault)
        for signs, what, do in FAULTS:
            if any(sign in text for sign in signs):
                where = distributed.who_ended() if what == ENDED else None
                error = ResourceError(what, where=where, got=text.strip().splitlines()[0][:300], do=do)
                if what != ENDED:
                    distributed.leave_word(error)
                raise error from fault
        distributed.leave_word(fault)
        raise
    except BaseException as fault:
        distributed.leave_word(fault)
        raise
