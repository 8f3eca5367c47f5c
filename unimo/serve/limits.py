"""What a request may cost; `unimo serve --help` names what is most often changed."""

from __future__ import annotations

from dataclasses import dataclass

from unimo.config import setting


@dataclass(frozen=True)
class Limits:
    max_body: int = setting(20_000_000, "bytes of a request", at_least=1)
    max_pixels: int = setting(24_000_000, "pixels of an image, read from its header", at_least=1)
    max_images: int = setting(16, "images of a request", at_least=1)
    max_texts: int = setting(128, "texts of a request", at_least=1)
    max_fused: int = setting(256, "pairs of an image and a text of a request that are read together", at_least=1)
    max_characters: int = setting(10_000, "characters of a text", at_least=1)
    timeout: float = setting(60.0, "seconds from a request's first lines to the end of its answer", above=0)
    idle: float = setting(10.0, "seconds a connection waits for those lines", above=0)
    max_requests: int = setting(64, "requests at work at once", at_least=1)
    max_connections: int = setting(512, "connections open at once", at_least=1)
    max_batch: int = setting(32, "rows of one forward pass", at_least=1)
    wait: float = setting(0.004, "seconds the first row of a pass waits for others", at_least=0)
