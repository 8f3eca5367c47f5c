"""Generation as plain text: a file of sources and a file of targets, line by line; and stories with highlights."""

from __future__ import annotations

from pathlib import Path

from unimo.corpus.text import decode_utf8
from unimo.errors import DataError
from unimo.file_access import read_file
from unimo.finetune.example import Example, Found, Noted
from unimo.finetune.readers.raw import count_lines, ends_the_file, lines_of

HIGHLIGHT = "@highlight"


def read_lines(source: Path, target: Path | None = None) -> Found:
    """Gigaword, CNN/DailyMail and whatever else is published as two files of equally many lines.

    target: None for a test split. DataError, naming both counts, when the files have different numbers of lines.
    """
    if target is None:
        yield Noted("sources without a file of targets: no targets")
    else:
        counts = count_lines(source), count_lines(target)
        if counts[0] != counts[1]:
            raise DataError(
                "source and target have different numbers of lines",
                where=f"{source}, {target}",
                got=f"{counts[0]} and {counts[1]} lines",
                expected="a line of target for each line of source",
                do="look for a line end inside a text, or fetch both files again",
            )
    targets = None if target is None else lines_of(target)
    for number, text in enumerate(lines_of(source), start=1):
        wanted = None if targets is None else next(targets)
        place = f"{source.name}, line {number}"
        if isinstance(text, DataError) or isinstance(wanted, DataError):
            error = text if isinstance(text, DataError) else wanted
            assert isinstance(error, DataError)
            yield error
            if ends_the_file(error):
                return
        elif not text.strip():
            yield DataError("text is empty", where=place, do="remove the line from both files")
        elif wanted is not None and not wanted.strip():
            where = f"{target.name if target else ''}, line {number}"
            yield DataError("target is empty", where=where, do="remove the line from both files")
        else:
            yield Example(f"{source.name}:{number}", (text.strip(),), None, wanted and wanted.strip())


def read_stories(path: Path) -> Found:
    """CNN/DailyMail as .story files in a folder: the article, then sentences of the summary behind @highlight lines."""
    names = sorted(path.glob("*.story"))
    if not names:
        raise DataError("no stories", where=path, expected="a folder of .story files", do="correct the path")
    for name in names:
        try:
            text = decode_utf8(read_file(name), name.name)
            article, *highlights = (" ".join(part.split()) for part in text.split(HIGHLIGHT))
            highlights = [highlight for highlight in highlights if highlight]
            if not article:
                raise DataError("text is empty", where=name.name, do="remove the story")
            if not highlights:
                raise DataError("story without highlights", where=name.name, do="remove the story")
            yield Example(name.stem, (article,), None, "\n".join(highlights))
        except DataError as error:
            yield error
