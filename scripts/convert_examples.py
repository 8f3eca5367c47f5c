"""Writes the same captioned images, and the same texts, in every format that `unimo` reads.

    python scripts/convert_examples.py OUT --pairs flickr8k/dev-00000.tar --texts wikitext2/valid.txt --limit 400

--pairs: WebDataset tars of KEY.jpg and KEY.json with "captions". --texts: a document on each line. Each format is a
folder of OUT, as its publishers lay it out, and what to name in it is printed: `unimo pretrain photos --pairs THAT`.
save_to_disk needs `datasets` (pip install "unimo[datasets]").
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
from pyarrow import parquet

IMAGES = "images"  # folder of the images beside most tables


class Pair(NamedTuple):
    key: str
    image: bytes
    captions: list[str]

    @property
    def name(self) -> str:
        return f"{self.key}.jpg"


Pairs = Sequence[Pair]


def read_pairs(tars: Iterable[str], limit: int | None = None) -> list[Pair]:
    """Pairs of WebDataset tars, sorted by key, at most `limit`."""
    parts: dict[str, dict[str, bytes]] = {}
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                if (stream := tar.extractfile(member)) is not None:
                    parts.setdefault(key, {})[ending] = stream.read()
    keys = sorted(parts)[:limit]
    return [Pair(key, parts[key]["jpg"], json.loads(parts[key]["json"])["captions"]) for key in keys]


def rows(pairs: Pairs, folder: str = "") -> list[tuple[str, str]]:
    """(path of the image, caption), one for each caption."""
    return [(folder + pair.name, caption) for pair in pairs for caption in pair.captions]


# ---- writing


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def write_images(folder: Path, pairs: Pairs) -> None:
    for pair in pairs:
        write(folder / pair.name, pair.image)


def write_json(path: Path, value: Any) -> Path:
    return write(path, json.dumps(value))


def write_jsonl(path: Path, values: Iterable[dict[str, Any]]) -> Path:
    return write(path, "".join(json.dumps(value) + "\n" for value in values))


def write_csv(path: Path, header: Sequence[str], values: Iterable[Sequence[str]], **dialect: Any) -> Path:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n", **dialect)
    writer.writerow(header)
    writer.writerows(values)
    return write(path, stream.getvalue())


def write_parquet(path: Path, values: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(values), path)
    return path


def write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def halves(pairs: Pairs) -> list[Pairs]:
    return [pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]]


# ---- pairs: each returns what is to be named after --pairs


def open_clip_csv(out: Path, pairs: Pairs) -> Path:
    write_images(out / IMAGES, pairs)
    return write_csv(out / "train.csv", ("filepath", "title"), rows(pairs, f"{IMAGES}/"))


def open_clip_tsv(out: Path, pairs: Pairs) -> Path:
    write_images(out / IMAGES, pairs)
    lines = "".join(f"{path}\t{caption}\n" for path, caption in [("filepath", "title"), *rows(pairs, f"{IMAGES}/")])
    return write(out / "train.tsv", lines)


def kaggle_captions_txt(out: Path, pairs: Pairs) -> Path:
    write_images(out / "Images", pairs)
    return write_csv(out / "captions.txt", ("image", "caption"), rows(pairs))


def coco_captions(out: Path, pairs: Pairs) -> Path:
    write_images(out / "train2017", pairs)
    images = [{"id": i, "file_name": pair.name, "width": 0, "height": 0} for i, pair in enumerate(pairs)]
    captions = [(i, caption) for i, pair in enumerate(pairs) for caption in pair.captions]
    notes = [{"id": n, "image_id": i, "caption": caption} for n, (i, caption) in enumerate(captions)]
    whole = {"info": {}, "images": images, "licenses": [], "annotations": notes}
    return write_json(out / "annotations" / "captions_train2017.json", whole)


def karpathy(out: Path, pairs: Pairs, splits: Sequence[str] = ("train",)) -> Path:
    """Every image of the split train, or splits in turn."""
    write_images(out / IMAGES, pairs)
    images = []
    for i, pair in enumerate(pairs):
        sentences = [{"raw": text, "tokens": text.split(), "imgid": i} for text in pair.captions]
        split = splits[i % len(splits)]
        images.append({"filename": pair.name, "imgid": i, "split": split, "sentids": [], "sentences": sentences})
    return write_json(out / "dataset_flickr8k.json", {"dataset": "flickr8k", "images": images})


def karpathy_splits(out: Path, pairs: Pairs) -> Path:
    return karpathy(out, pairs, ("train",) * 8 + ("val", "test"))


def flickr30k_results_csv(out: Path, pairs: Pairs) -> Path:
    write_images(out / "flickr30k_images", pairs)
    numbered = [(pair.name, n, text) for pair in pairs for n, text in enumerate(pair.captions)]
    lines = "".join(f"{name}| {n}| {text}\n" for name, n, text in numbered)
    return write(out / "results.csv", f"image_name| comment_number| comment\n{lines}")


def flickr8k_token_txt(out: Path, pairs: Pairs) -> Path:
    write_images(out / "Flicker8k_Dataset", pairs)  # misspelt by its publishers
    numbered = [(pair.name, n, text) for pair in pairs for n, text in enumerate(pair.captions)]
    return write(out / "Flickr8k_text" / "Flickr8k.token.txt", "".join(f"{a}#{n}\t{text}\n" for a, n, text in numbered))


def blip_list(out: Path, pairs: Pairs) -> Path:
    write_images(out / IMAGES, pairs)
    found = [{"image": path, "caption": text, "image_id": path} for path, text in rows(pairs, f"{IMAGES}/")]
    return write_json(out / "train.json", found)


def llava(out: Path, pairs: Pairs) -> Path:
    write_images(out / IMAGES, pairs)
    question = {"from": "human", "value": "<image>\nDescribe the image in a sentence."}
    talks = [[turn for text in pair.captions for turn in (question, {"from": "gpt", "value": text})] for pair in pairs]
    found = [{"id": p.key, "image": p.name, "conversations": talk} for p, talk in zip(pairs, talks)]
    return write_json(out / "llava.json", found)


def json_lines(out: Path, pairs: Pairs) -> Path:
    write_images(out / IMAGES, pairs)
    return write_jsonl(out / "train.jsonl", ({"image": f"{IMAGES}/{p.name}", "captions": p.captions} for p in pairs))


def imagefolder_csv(out: Path, pairs: Pairs) -> Path:
    write_images(out / "train", pairs)
    write_csv(out / "train" / "metadata.csv", ("file_name", "text"), rows(pairs))
    return out


def _metadata(pairs: Pairs) -> list[dict[str, Any]]:
    return [{"file_name": name, "text": caption} for name, caption in rows(pairs)]


def imagefolder_jsonl(out: Path, pairs: Pairs) -> Path:
    write_images(out / "train", pairs)
    write_jsonl(out / "train" / "metadata.jsonl", _metadata(pairs))
    return out


def imagefolder_parquet(out: Path, pairs: Pairs) -> Path:
    write_images(out / "train", pairs)
    write_parquet(out / "train" / "metadata.parquet", _metadata(pairs))
    return out


def parquet_with_images(out: Path, pairs: Pairs) -> Path:
    found = [{"image": {"bytes": p.image, "path": p.name}, "captions": p.captions} for p in pairs]
    write_parquet(out / "data" / "train-00000-of-00001.parquet", found)
    return out


def save_to_disk(out: Path, pairs: Pairs) -> Path:
    from datasets import Dataset, DatasetDict, Image

    columns = {"image": [{"bytes": p.image, "path": p.name} for p in pairs], "captions": [p.captions for p in pairs]}
    dataset = Dataset.from_dict(columns).cast_column("image", Image())
    DatasetDict({"train": dataset}).save_to_disk(out)
    return out


def _img2dataset(pairs: Pairs) -> Iterator[tuple[str, Pair, dict[str, Any]]]:
    """Number, pair and record as img2dataset writes them: one caption for each image."""
    for i, pair in enumerate(pairs):
        caption, address = pair.captions[0], f"https://example.org/{pair.name}"
        record = {"caption": caption, "url": address, "key": f"{i:09d}", "status": "success", "error_message": None}
        yield record["key"], pair, record


def img2dataset_files(out: Path, pairs: Pairs) -> Path:
    for key, pair, record in _img2dataset(pairs):
        for ending, data in _members(pair.image, record, record["caption"]):
            write(out / "00000" / f"{key}.{ending}", data)
    write_parquet(out / "00000.parquet", [record for _, _, record in _img2dataset(pairs)])
    return out


def img2dataset_tars(out: Path, pairs: Pairs) -> Path:
    found = list(_img2dataset(pairs))
    members = [(f"{k}.{end}", data) for k, p, r in found for end, data in _members(p.image, r, r["caption"])]
    write_tar(out / "00000.tar", members)
    write_parquet(out / "00000.parquet", [record for _, _, record in found])
    write_json(out / "00000_stats.json", {"count": len(found), "successes": len(found)})
    return out


def img2dataset_parquet(out: Path, pairs: Pairs) -> Path:
    write_parquet(out / "00000.parquet", [{**record, "jpg": pair.image} for _, pair, record in _img2dataset(pairs)])
    return out


def _members(image: bytes, record: dict[str, Any], caption: str) -> Iterator[tuple[str, bytes]]:
    yield from (("jpg", image), ("txt", caption.encode()), ("json", json.dumps(record).encode()))


def txt_beside(out: Path, pairs: Pairs) -> Path:
    for pair in pairs:
        write(out / pair.name, pair.image)
        write(out / f"{pair.key}.txt", "\n".join(pair.captions))
    return out


def webdataset(out: Path, pairs: Pairs) -> Path:
    for n, half in enumerate(halves(pairs)):
        members = [(f"{p.key}.{end}", data) for p in half for end, data in _sides(p)]
        write_tar(out / f"{n:05d}.tar", members)
    return out / "{00000..00001}.tar"


def _sides(pair: Pair) -> Iterator[tuple[str, bytes]]:
    yield from (("jpg", pair.image), ("json", json.dumps({"captions": pair.captions}).encode()))


PAIRS: dict[str, Callable[[Path, Pairs], Path]] = {
    each.__name__: each
    for each in (
        *(open_clip_csv, open_clip_tsv, kaggle_captions_txt, coco_captions, karpathy, karpathy_splits),
        *(flickr30k_results_csv, flickr8k_token_txt, blip_list, llava, json_lines),
        *(imagefolder_csv, imagefolder_jsonl, imagefolder_parquet, parquet_with_images, save_to_disk),
        *(img2dataset_files, img2dataset_tars, img2dataset_parquet, txt_beside, webdataset),
    )
}


# ---- texts


def txt_documents(out: Path, texts: Sequence[str], ending: str = "txt") -> Path:
    for i, text in enumerate(texts):
        write(out / f"{i:05d}.{ending}", text)
    return out


TEXTS: dict[str, Callable[[Path, Sequence[str]], Path]] = {
    "txt": txt_documents,
    "md": lambda out, texts: txt_documents(out, texts, "md"),
    "jsonl": lambda out, texts: write_jsonl(out / "texts.jsonl", ({"text": text} for text in texts)),
    "json": lambda out, texts: write_json(out / "texts.json", [{"content": text} for text in texts]),
    "csv": lambda out, texts: write_csv(out / "texts.csv", ("id", "article"), enumerate(texts)),  # type: ignore[arg-type]
    "parquet": lambda out, texts: write_parquet(out / "texts.parquet", [{"text": text} for text in texts]),
}


def read_texts(files: Iterable[str], limit: int | None = None) -> list[str]:
    """Lines that are more than blanks, at most `limit`."""
    lines = (line.strip() for name in files for line in Path(name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line][:limit]


def convert(out: Path, pairs: Pairs, texts: Sequence[str], only: Sequence[str] = ()) -> dict[str, Path]:
    """Every format, or those named in `only`: "csv" of texts is called texts/csv. Name -> path to give to unimo."""
    found: dict[str, Path] = {}
    for name, make in PAIRS.items():
        if pairs and (name in only or not only):
            found[name] = make(out / name, pairs)
    for name, write_them in TEXTS.items():
        if texts and (f"texts/{name}" in only or not only):
            found[f"texts/{name}"] = write_them(out / "texts" / name, texts)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", nargs="+", default=[])
    parser.add_argument("--texts", nargs="+", default=[])
    parser.add_argument("--limit", type=int, help="pairs, and texts, at most")
    parser.add_argument("--format", nargs="+", default=[], help="only these: csv of texts is texts/csv")
    given = parser.parse_args()
    texts = read_texts(given.texts, given.limit)
    for name, path in convert(given.out, read_pairs(given.pairs, given.limit), texts, given.format).items():
        print(f"{name}: --{'texts' if name.startswith('texts/') else 'pairs'} {path}")


if __name__ == "__main__":
    main()
