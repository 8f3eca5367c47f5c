"""What a request may cost; `unimo serve --help` names what is most often changed."""

from __future__ import annotations

from dataclasses import dataclass

from unimo.config import setting

# Of one request; OpenAPI names them.
MAX_IMAGES, MAX_REGIONS, MAX_TEXTS, MAX_CHARACTERS, MAX_PROMPTS, MAX_PAIRS = 16, 100, 128, 10_000, 8, 256


@dataclass(frozen=True)
class Limits:
    max_body: int = setting(20_000_000, "bytes of a request", at_least=1)
    max_pixels: int = setting(24_000_000, "pixels of an image, read from its header", at_least=1)
    timeout: float = setting(60.0, "seconds from a request's first lines to the end of its answer", above=0)
    idle: float = setting(10.0, "seconds a connection waits for those lines", above=0)
    max_requests: int = setting(64, "requests at work at once", at_least=1)
    max_connections: int = setting(512, "connections open at once", at_least=1)
    max_batch: int = setting(32, "rows of one forward pass", at_least=1)
    wait: float = setting(0.004, "seconds the first row of a pass waits for others", at_least=0)
