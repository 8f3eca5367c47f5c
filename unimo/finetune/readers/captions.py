"""Captioned images in the two JSON layouts everybody uses: Karpathy's splits, and COCO's own annotations.

One example per image: its target are all its captions, in the order of the file.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from unimo.errors import DataError
from unimo.finetune.example import Dropped, Example, Found, Noted
from unimo.finetune.readers.raw import read_json
from unimo.finetune.readers.shape import listed, name_of, words


def read_karpathy(path: Path, *, split: str, restval: bool = True) -> Found:
    """dataset_coco.json, dataset_flickr30k.json, dataset_flickr8k.json (Karpathy and Fei-Fei, CVPR 2015).

    split: train, val or test. restval: whether "train" has COCO's further 30,504 images of that name too, as in both
    papers (566,747 captions).
    """
    images = listed(read_json(path), "images", path.name)
    wanted = {split, "restval"} if split == "train" and restval else {split}
    there = Counter(str(each.get("split")) for each in images if isinstance(each, dict))
    if split not in there:
        raise DataError("no such split", where=path.name, got=split, expected=", ".join(sorted(there)) or "images")
    for i, image in enumerate(images):
        where = f"{path.name}, images[{i}]"
        try:
            if name_of(image, "split", where) not in wanted:
                yield Dropped("image of another split")
                continue
            folder = image.get("filepath")
            name = words(image, "filename", where)
            sentences = enumerate(listed(image, "sentences", where))
            captions = tuple(words(each, "raw", f"{where}.sentences[{j}]") for j, each in sentences)
            if not captions:
                raise DataError("image without caption", where=where, got=name, do="add one or remove the image")
            number = name_of(image, "cocoid" if "cocoid" in image else "imgid", where)
            yield Example(number, (), f"{folder}/{name}" if folder else name, captions)
        except DataError as error:
            yield error


def read_coco_captions(path: Path) -> Found:
    """captions_train2017.json and its like; a file without annotations gives images to be captioned."""
    values = read_json(path)
    images = listed(values, "images", path.name)
    captions: dict[str, list[str]] = {}
    known = set()
    for i, image in enumerate(images):
        where = f"{path.name}, images[{i}]"
        try:
            known.add(name_of(image, "id", where))
        except DataError as error:
            yield error
    said = listed(values, "annotations", path.name) if values.get("annotations") is not None else []
    for i, each in enumerate(said):
        where = f"{path.name}, annotations[{i}]"
        try:
            number = name_of(each, "image_id", where)
            if number not in known:
                raise DataError("caption of an unknown image", where=where, got=number, expected="an id of images")
            captions.setdefault(number, []).append(words(each, "caption", where))
        except DataError as error:
            yield error
    if not said:
        yield Noted("images without annotations: no targets")
    for i, image in enumerate(images):
        where = f"{path.name}, images[{i}]"
        try:
            number = name_of(image, "id", where)
        except DataError:
            continue  # named above
        try:
            yield Example(number, (), words(image, "file_name", where), tuple(captions.get(number, ())) or None)
        except DataError as error:
            yield error
