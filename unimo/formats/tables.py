"""Tables of any form as rows, each with its place: .csv, .tsv, JSON lines, whole JSON files, Parquet, Arrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from unimo.errors import DataError, UsageError, nearest
from unimo.formats.arrow import read_arrow, schema_of
from unimo.formats.delimited import TOKEN_LINE, delimiter_of, header_of, read_delimited, read_tokens
from unimo.formats.documents import is_document, keys_of, layout_of, read_document
from unimo.formats.text import Row, first_line, read_jsonl

FORMS = {
    "csv": "CSV",
    "tsv": "TSV",
    "jsonl": "JSON lines",
    "json": "JSON",
    "parquet": "Parquet",
    "arrow": "Arrow (datasets.save_to_disk)",
    "tokens": "Flickr's token file",
}
_BY_ENDING = {form: form for form in FORMS} | {
    "ndjson": "jsonl",
    "json": "jsonl",
    "token": "tokens",
    "feather": "arrow",
}
ADDRESSED = ("jsonl", "parquet", "arrow")  # of which a row can be read alone
PEEKED = 20  # rows of JSON lines
_PANDAS = "python -c \"import pandas; pandas.read_{reader}('{file}').to_csv('{stem}.csv', index=False)\""
_CONVERT = {
    "unzip {file} -d {stem}": ("zip",),
    "tar -xf {file}": ("tgz", "tar.gz", "tbz2", "tar.bz2", "txz", "tar.xz", "tar.zst"),
    "gunzip {file}": ("gz",),
    "bunzip2 {file}": ("bz2",),
    "unxz {file}": ("xz",),
    "unzstd {file}": ("zst",),
    _PANDAS.replace("{reader}", "excel"): ("xls", "xlsx", "ods"),
    _PANDAS.replace("{reader}", "stata"): ("dta",),
    "sqlite3 -header -csv {file} 'select image, caption from TABLE' > {stem}.csv": ("sqlite", "sqlite3", "db"),
    "pandoc {file} -t plain -o {stem}.txt": ("docx", "odt", "epub", "html", "htm", "rst", "tex", "rtf"),
    "pdftotext {file} {stem}.txt": ("pdf",),
    "magick {file} {stem}.png": ("heic", "heif", "jp2", "psd", "svg", "ppm", "pgm", "tga"),
}


def ending_of(name: str) -> str:
    """The ending of a name in small letters, without .gz: csv of A.CSV.gz."""
    return name.lower().removesuffix(".gz").rpartition(".")[2]


def is_table(name: str) -> bool:
    """Whether a file is a table by its name; a .json may be something else."""
    packed = not name.lower().endswith((".parquet.gz", ".arrow.gz", ".feather.gz"))
    return "." in name and packed and ending_of(name) in _BY_ENDING


def form_of(path: Path) -> str:
    """A key of FORMS, by the ending of the name and for JSON and .txt by the first lines."""
    form = _BY_ENDING.get(ending_of(path.name))
    if form == "jsonl" and is_document(path):
        return "json"
    if form is None and ending_of(path.name) == "txt":  # Kaggle's captions.txt, Flickr8k.token.txt
        return "tokens" if TOKEN_LINE.fullmatch(first_line(path)) else "csv"
    if form is None:
        expected = ", ".join(f".{form}" for form in FORMS) + ", each but the Arrow forms also as .gz"
        folder = path.is_dir()
        got = "a folder" if folder else f"a name ending in .{ending_of(path.name)}"
        do = convert(path) or ("name a file in it" if folder else "rename or convert the file, or give its form")
        raise UsageError("unknown kind of table", where=path, got=got, expected=expected, do=do)
    return form


def convert(path: Path) -> str | None:
    """A command that makes of a file that is not read one that is."""
    name = path.name.lower()
    for command, endings in _CONVERT.items():
        for ending in endings:
            if name.endswith(f".{ending}"):
                return command.format(file=path, stem=str(path)[: -len(ending) - 1])
    return None


def rows_of(
    path: Path,
    form: str | None = None,
    *,
    delimiter: str | None = None,
    quoting: bool | None = None,
    header: Sequence[str] | None = None,
) -> Iterator[Row | DataError]:
    """The rows of a table of any form, values by the names of their columns.

    form: see FORMS; by `form_of` if not given. delimiter: of a .csv, read off the header if not given. quoting: whether
    quotes enclose fields that hold delimiters and line ends; if not given, in .csv they do and in .tsv they are
    characters like any other. header: names of the columns of a file that does not begin with them.
    """
    form = form or form_of(path)
    if form in ("json", "jsonl"):
        return read_document(path) if is_document(path) else read_jsonl(path)
    if form in ("parquet", "arrow"):
        return read_arrow(path)
    if form == "tokens":
        return read_tokens(path)
    if form not in FORMS:
        near = nearest(form, FORMS)
        do = f"did you mean {near}?" if near else "name one of these, or leave it to the file"
        raise UsageError("unknown form of table", where=path, got=form, expected=", ".join(FORMS), do=do)
    quoted = form == "csv" if quoting is None else quoting
    return read_delimited(path, "\t" if form == "tsv" and delimiter is None else delimiter, quoted, header)


def columns_in(path: Path, form: str) -> dict[str, bool] | None:
    """Names of the fields near the beginning, and whether they hold bytes. None: none can be read so far."""
    if form in ("parquet", "arrow"):
        return schema_of(path)
    if form == "tokens":
        return {"image": False, "caption": False}
    try:
        if form in ("csv", "tsv"):
            return dict.fromkeys(header_of(path, "\t" if form == "tsv" else None), False)
        if form == "json":
            return dict.fromkeys(keys_of(path), False)
        rows = [row.values for row in islice(read_jsonl(path), PEEKED) if isinstance(row, Row)]
        return {name: False for row in rows for name in row} if rows else None
    except DataError:
        return None


def described(path: Path, form: str) -> str:
    """What a file is, for people: CSV (; between the columns image, caption)."""
    if form == "json":
        return layout_of(path)
    names = [name for name in columns_in(path, form) or {} if name]
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    between = ""
    if form == "csv" and (delimiter := delimiter_of(path)) != ",":
        between = f"{'tabs' if delimiter == chr(9) else delimiter} between the "
    return f"{FORMS[form]} ({between}columns {shown})"
