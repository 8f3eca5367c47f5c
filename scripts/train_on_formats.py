"""A short training run on every format that `unimo` reads, scored on held-out samples: results/validation/formats.json.

    python scripts/train_on_formats.py WORK --pairs flickr8k/dev-00000.tar --texts wikitext2/valid.txt
    python scripts/train_on_formats.py WORK --minutes 2 --out results/validation/formats-two-minutes.json ...

The same images and captions are written in every format (`convert_examples.py`, into WORK/data), and each is trained on
with the same seed and steps. Formats that name the images alike hold out the same ones and must end with the same
scores; the others say why they differ. With --minutes the clock decides how many steps each makes, so nothing is
compared. The file is written after every run, and finished runs are not made again.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shlex
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from convert_examples import convert, read_pairs, read_texts

from unimo.cli import app

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = (
    *("model.width=96", "model.heads=4", "model.image_depth=2", "model.text_depth=2", "model.grounded_depth=1"),
    *("model.image_size=64", "batch.pairs=32", "batch.images=0", "batch.text_tokens=256", "data.val_fraction=0.1"),
    *("objectives.seq2seq.pairs=16", "log=none"),
)
BY_NUMBER = "its rows are known by number, so others are held out"
ONE_CAPTION = "img2dataset keeps one caption of an image and numbers the images: others are held out"
OWN_SPLIT = "trained on its train, scored on its val: others than those chosen by name"
DIFFERENT = {
    **dict.fromkeys(("parquet_with_images", "save_to_disk"), BY_NUMBER),
    **dict.fromkeys(("texts/jsonl", "texts/json", "texts/csv", "texts/parquet"), BY_NUMBER),
    **dict.fromkeys(("img2dataset_files", "img2dataset_tars", "img2dataset_parquet"), ONE_CAPTION),
    "karpathy_splits": OWN_SPLIT,
}
FACTS = ("commit", "machine", "parameters", "precision", "seed of training")
KEPT = re.compile(r"(image to text|text to image) R@\d+|mean recall|CIDEr-D|perplexity, ((?!random).)*")


def trained(name: str, path: Path, out: Path, length: list[str]) -> dict[str, Any]:
    """What a run on one format says: made by the command in it, or found finished in `out`."""
    kind = "texts" if name.startswith("texts/") else "pairs"
    command = ["unimo", "pretrain", "photos", f"--{kind}", str(path), *length, "--out", str(out)]
    command += [word for setting in SETTINGS for word in ("--set", setting)]
    kept = out / "format.json"
    if not kept.is_file():
        began = time.monotonic()
        with redirect_stdout(io.StringIO()) as stream:
            app(command[1:], standalone_mode=False)
        said = stream.getvalue()
        read = re.search(rf"^{kind}: ([\d,]+) from (.*)$", said, re.MULTILINE)
        held_out = re.search(rf"^([\d,]+) of [\d,]+ {kind} are held out", said, re.MULTILINE)
        assert read and held_out, said
        row = {"format": name, "read_as": read[2], kind: int(read[1].replace(",", "")), "held_out": int(held_out[1])}
        kept.write_text(json.dumps(row | {"seconds": round(time.monotonic() - began, 1)}))
    report = json.loads((out / "evaluation.json").read_text())
    kept_rows = [row for row in report["scores"] if KEPT.fullmatch(row["metric"]) and isinstance(row["score"], dict)]
    scores = {row["metric"]: row["score"]["value"] for row in kept_rows}
    steps = (out / "log.jsonl").read_text().count("\n")
    row = json.loads(kept.read_text()) | {"steps": steps, "command": shlex.join(command)}
    return row | {"scores": scores, "facts": report["facts"]}


def check_equal(rows: list[dict[str, Any]]) -> None:
    """Says of each row why its scores differ, or that they are those of the first of its kind; SystemExit if not."""
    first: dict[bool, dict[str, Any]] = {}
    for row in rows:
        if row["format"] in DIFFERENT:
            row["differs"] = DIFFERENT[row["format"]]
            continue
        other = first.setdefault("texts" in row, row)
        if row["scores"] != other["scores"]:
            raise SystemExit(f"{row['format']} {row['scores']}\n{other['format']} {other['scores']}")
        row["same_scores_as"] = other["format"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("work", type=Path)
    parser.add_argument("--pairs", nargs="+", required=True)
    parser.add_argument("--texts", nargs="+", required=True)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--minutes", type=float, help="in place of --steps")
    parser.add_argument("--format", nargs="+", default=[], help="only these (see convert_examples.py)")
    parser.add_argument("--beside", help="what else ran on the machine, for the file")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "validation" / "formats.json")
    given = parser.parse_args()
    pairs, texts = read_pairs(given.pairs, given.limit), read_texts(given.texts, given.limit)
    places = convert(given.work / "data", pairs, texts, given.format)
    length = ["--minutes", f"{given.minutes:g}"] if given.minutes else ["--steps", str(given.steps)]
    rows = []
    for name, path in places.items():
        rows.append(trained(name, path, given.work / "runs" / name.replace("/", "-"), length))
        print(f"{name}: {rows[-1]['seconds']} s, {rows[-1]['scores']}", flush=True)
        write(given, rows)
    if not given.minutes:
        check_equal(rows)
        write(given, rows)


def write(given: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """The file, of the runs so far."""
    names = " ".join(Path(name).name for name in (*given.pairs, "--texts", *given.texts))
    minutes = f" --minutes {given.minutes:g}" if given.minutes else ""
    here = {"command": f"python scripts/train_on_formats.py WORK --pairs {names}{minutes}", "beside": given.beside}
    facts = {key: rows[0]["facts"][key] for key in FACTS}
    formats = [{key: value for key, value in row.items() if key != "facts"} for row in rows]
    text = json.dumps({**here, "facts": facts, "formats": formats}, indent=1)
    given.out.write_text(text.replace(str(given.work.resolve()), "WORK").replace(str(given.work), "WORK") + "\n")


if __name__ == "__main__":
    main()
