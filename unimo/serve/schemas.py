"""What the server answers, as OpenAPI sees it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from unimo.serve.limits import MAX_REGIONS

Feature = Annotated[float, Field(ge=-65_504, le=65_504)]  # what float16 holds, in which regions are stored


class Refusal(BaseModel):
    error: dict[str, str] = Field(description="what, and as far as they are known where, got, expected, do")


class Attention(BaseModel):
    """Which patches reached each piece of a text (attention rollout); rows of `maps` sum to 1."""

    side: int = Field(description="patches along each side of the image")
    pieces: list[str]
    maps: list[list[float]] = Field(description="one row a piece, patches row by row")


class Captions(BaseModel):
    captions: list[str] = Field(description="one an image")
    attention: list[Attention] | None = None


class Answers(BaseModel):
    answers: list[str | float] = Field(description="one a row")
    attention: list[Attention] | None = None


class Filled(BaseModel):
    tokens: list[str] = Field(description="likeliest first")
    probabilities: list[float]
    attention: list[Attention] | None = None


class Embeddings(BaseModel):
    """Of length 1, in one space."""

    images: list[list[float]]
    texts: list[list[float]]


class Scores(BaseModel):
    scores: list[list[float]] = Field(description="one row an image, one column a text")


class Classes(BaseModel):
    names: list[str]
    probabilities: list[list[float]] = Field(description="one row an image or text")


class Found(BaseModel):
    """A hit; see `unimo.retrieval.Hit`."""

    rank: int
    kind: str
    key: str
    text: str
    score: float
    fused: float | None
    thumbnail: str | None = Field(None, description="data URI of its image, if requested")
    meta: dict[str, Any] | None = Field(None, description="other columns or fields of its record, if requested")


class Hits(BaseModel):
    hits: list[Found]


class Regions(BaseModel):
    """A detector's regions of one image, as a UNIMO model reads them: a JSON file in the place of an image."""

    width: float = Field(ge=1, le=100_000)
    height: float = Field(ge=1, le=100_000)
    boxes: list[list[float]] = Field(max_length=MAX_REGIONS, description="x1, y1, x2, y2 in pixels, one row a region")
    features: list[list[Feature]] = Field(max_length=MAX_REGIONS, description="one row a region")
    whole: list[Feature] | None = Field(None, description="mean features of all that was detected, if more than these")


class Entry(BaseModel):
    """One entry of the grounded dictionary, with the patches and pieces of words that vote most for it."""

    number: int
    chosen: int = Field(description="how many pairs choose it")
    patches: str = Field(description="data URI of a square of patches, the nearest first")
    words: list[str]


class Dictionary(BaseModel):
    size: int
    pairs: int = Field(description="pairs of the collection whose votes were counted")
    perplexity: float
    dead_fraction: float
    entries: list[Entry]


class Chosen(BaseModel):
    entries: list[int] = Field(description="most voted first")
