"""One sample: an image, texts, or both."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """What a source holds under one key, still undecoded.

    image is the encoded file (JPEG, PNG, WebP, GIF or BMP) or None; texts are a document or the captions;
    meta is the sample's JSON object, empty where there is none.
    """

    key: str
    image: bytes | None = None
    texts: tuple[str, ...] = ()
    meta: dict = field(default_factory=dict)
