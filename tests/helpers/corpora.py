"""Small corpora: images, tars, folders and tables written in a line, and opened with their report of bad samples."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import open_corpus


class Letters:
    """A tokenizer that can be checked by eye: one id per UTF-8 byte."""

    def __init__(self, fingerprint="letters"):
        self.fingerprint = fingerprint

    def encode_batch(self, texts):
        return [list(text.encode()) for text in texts]


def image_of(seed: int, size=(12, 8)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def image(seed: int, form="PNG", size=(12, 8)) -> bytes:
    stream = io.BytesIO()
    image_of(seed, size).save(stream, form)
    return stream.getvalue()


def files_in(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def tar_of(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]], form=tarfile.USTAR_FORMAT, mtime=0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
    return path


def pairs_of(names: Iterable[str], seed=0) -> dict[str, bytes]:
    """NAME.png and NAME.txt each."""
    return {
        name: data
        for i, each in enumerate(names)
        for name, data in ((f"{each}.png", image(seed + i)), (f"{each}.txt", f"caption of {each}".encode()))
    }


def pair(i: int) -> list[tuple[str, bytes]]:
    """NUMBER.png and NUMBER.json with two captions."""
    record = {"captions": [f"caption {i} a", f"caption {i} b ü"], "n": i}
    return [(f"{i:03d}.png", image(i)), (f"{i:03d}.json", json.dumps(record).encode())]


def pairs_tar(path: Path, count: int) -> Path:
    return tar_of(path, [member for i in range(count) for member in pair(i)])


def jsonl(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def opened(kind, where, **options):
    """(corpus, report of bad samples) under the usual limit of one per cent."""
    bad = options.pop("bad_samples", None) or BadSamples()
    corpus = open_corpus(kind, where, tokenizer=options.pop("tokenizer", Letters()), bad_samples=bad, **options)
    assert bad.offered == bad.used + bad.quarantined and bad.used == len(corpus)
    return corpus, bad


def loosely(kind, where, **options):
    """As `opened`, however many samples are bad."""
    return opened(kind, where, max_bad_fraction=1.0, **options)


def texts_of(corpus) -> list[str]:
    return [corpus.text(i) for i in range(len(corpus))]


def images_of(corpus) -> list[bytes]:
    return [corpus.image_bytes(i) for i in range(len(corpus))]
