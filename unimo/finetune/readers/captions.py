"""Captioned images in the two JSON layouts everybody uses: Karpathy's splits, and COCO's own annotations.

One example per image: its target are all its captions, in the order of the file.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from unimo.errors import DataError
from unimo.finetune.example import Dropped, Example, Found, Noted
from unimo.finetune.readers.fields import each_of, listed, name_of, read_json, words


def read_karpathy(path: Path, *, split: str, restval: bool = True) -> Found:
    """dataset_coco.json, dataset_flickr30k.json, dataset_flickr8k.json (Karpathy and Fei-Fei, CVPR 2015).

    split: train, val or test. restval: whether "train" has COCO's further 30,504 images of that name too, as in both
    papers (566,747 captions).
    """
    images = listed(read_json(path), "images", path.name)
    splits = {split, "restval"} if split == "train" and restval else {split}
    there = Counter(str(image.get("split")) for image in images if isinstance(image, dict))
    if split not in there:
        raise DataError("no such split", where=path.name, got=split, expected=", ".join(sorted(there)) or "images")

    def example(image: Any, where: str) -> Example | Dropped:
        if name_of(image, "split", where) not in splits:
            return Dropped("image of another split")
        folder, name = image.get("filepath"), words(image, "filename", where)
        sentences = enumerate(listed(image, "sentences", where))
        captions = tuple(words(each, "raw", f"{where}.sentences[{j}]") for j, each in sentences)
        if not captions:
            raise DataError("image without caption", where=where, got=name, do="add one or remove the image")
        number = name_of(image, "cocoid" if "cocoid" in image else "imgid", where)
        return Example(number, (), f"{folder}/{name}" if folder else name, captions)

    yield from each_of(images, f"{path.name}, images", example)


def read_coco_captions(path: Path) -> Found:
    """captions_train2017.json and its like; a file without annotations gives images to be captioned."""
    values = read_json(path)
    images = listed(values, "images", path.name)
    known = {str(image.get("id")) for image in images if isinstance(image, dict)}
    captions: dict[str, list[str]] = {}

    def take(annotation: Any, where: str) -> None:
        number = name_of(annotation, "image_id", where)
        if number not in known:
            raise DataError("caption of an unknown image", where=where, got=number, expected="an id of images")
        captions.setdefault(number, []).append(words(annotation, "caption", where))

    def example(image: Any, where: str) -> Example:
        number = name_of(image, "id", where)
        return Example(number, (), words(image, "file_name", where), tuple(captions.get(number, ())) or None)

    annotations = listed(values, "annotations", path.name) if values.get("annotations") is not None else []
    if not annotations:
        yield Noted("images without annotations: no targets")
    yield from each_of(annotations, f"{path.name}, annotations", take)
    yield from each_of(images, f"{path.name}, images", example)
