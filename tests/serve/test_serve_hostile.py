"""Whatever is sent, no answer is a 5xx, the server goes on, and what was sent leaves nothing in memory.

UNIMO_HOSTILE=10000 plays as many; `python tests/serve/hostile.py` does so against a process of its own.
"""

from __future__ import annotations

import os

from hostile import play_many, resident
from serving import served

from unimo.serve.limits import Limits

REQUESTS = int(os.environ.get("UNIMO_HOSTILE", "300"))


def test_hostile_requests(pipeline, collection):
    limits = Limits(idle=1, timeout=5)
    with served(pipeline, collection, limits=limits) as client:
        base = str(client.base_url)
        address = (client.base_url.host, client.base_url.port)
        first = play_many(address, REQUESTS, seed=1)
        before = resident(base)
        second = play_many(address, REQUESTS, seed=2)
        grown = resident(base) - before
        assert client.post("/embed", data={"texts": "a"}).status_code == 200
        counted = client.get("/metrics").text
    answered = first + second
    assert sum(n for status, n in answered.items() if status[0] in "24") > REQUESTS, answered
    assert 'status="5' not in counted
    assert grown < 60e6, f"{grown / 1e6:.0f} MB"  # of two images of 24 megapixels a decoder's pool may keep a part
