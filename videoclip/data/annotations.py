"""What the readers of annotation files share: finding a file, and reading it with errors that name it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from videoclip import files
from videoclip.data.manifest import MEDIA_SUFFIXES, Clip, locating
from videoclip.errors import DataError, printable

# The longest beginning of a line that ends like a video: file names may contain spaces, commas and full stops.
_NAME = re.compile(rf"(.*\.(?:{'|'.join(s[1:] for s in sorted(MEDIA_SUFFIXES))}))(?=[\s,;]|$)", re.IGNORECASE)


def find(folder: Path, name: str) -> Path | None:
    """Return the file below a folder that fits a name or pattern, or the path itself where it is that file.

    The file that lies least deep is taken.

    Raises:
        DataError: several files of the name lie equally deep.
    """
    if folder.is_file():
        return folder if folder.match(name) else None
    if not name or PurePath(name).is_absolute():
        return None
    found = sorted((path for path in folder.rglob(name) if path.is_file()), key=lambda path: (len(path.parts), path))
    rivals = [path for path in found if len(path.parts) == len(found[0].parts)]
    if len(rivals) > 1 and "*" not in name:
        raise DataError(f"{folder}: contains both {rivals[0]} and {rivals[1]}; name the folder of one of them.")
    return found[0] if found else None


def present(folder: Path, name: str) -> Path:
    """Return what ``find`` finds, for a file that is known to be there.

    Raises:
        DataError: it is not there.
    """
    path = find(folder, name)
    if path is None:
        raise DataError(f"{folder}: there is no {name}.")
    return path


def read_lines(path: Path) -> list[str]:
    """Return the lines that are not blank, without spaces and tabs around them.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    return [line.strip(" \t") for line in files.read_lines(path) if line.strip()]


def read_objects(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON objects, one per line.

    Raises:
        DataError: the file cannot be read, or a line is not an object.
    """
    for number, line in enumerate(files.read_lines(path), 1):
        if not line.strip():
            continue
        with locating(f"{path}, line {number}"):
            found = json.loads(line)
            if not isinstance(found, dict):
                raise TypeError("is not a JSON object")
        yield found


def read_table(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return the rows of a table whose first line names its columns; empty rows are left out.

    Cells are separated by tabs where the first line has tabs and no commas, otherwise by commas.

    Args:
        path: a CSV or TSV file.
        columns: those that must be there.

    Raises:
        DataError: the file cannot be read, a column is missing or named twice, or a row has another number of cells.
    """
    with files.reading(path, "a table"), path.open(newline="", encoding="utf-8-sig") as file:
        text = file.read().lstrip("\r\n")
    first = re.split(r"[\r\n]", text, maxsplit=1)[0]
    rows = _tab_rows(text, path) if "\t" in first and "," not in first else _csv_rows(text, ",", path)
    if not rows:
        raise DataError(f"{path}: is empty; the first line must name the columns.")

    head = [name.strip() for name in rows[0][1]]
    if missing := [name for name in columns if name not in head]:
        shown = printable(", ".join(head))[:200]
        raise DataError(f"{path}: has no column {', '.join(missing)}; its columns are: {shown}.")
    if twice := [name for name, count in Counter(head).items() if name and count > 1]:
        raise DataError(f"{path}: names the column {twice[0]!r} twice; rename or remove one.")

    for line, row in rows:
        if len(row) != len(head):
            raise DataError(
                f"{path}, line {line}: has another number of cells ({len(row)}) than the first line ({len(head)})."
            )
    return [dict(zip(head, row, strict=True)) for _, row in rows[1:] if any(cell.strip() for cell in row)]


def read_list(path: Path, cells: int | None = None) -> list[tuple[str, list[str]]]:
    """Return the lines of a list that are not blank, see ``split_line``.

    Args:
        path: a text file.
        cells: how many there must be behind the name of a file.

    Raises:
        DataError: the file cannot be read, a line cannot be split, or only some lines name a video by its suffix.
    """
    found = []
    for number, line in enumerate(files.read_lines(path), 1):
        if line.strip():
            with locating(f"{path}, line {number}"):
                name, behind = split_line(line.strip(" \t"))
                if cells is not None and len(behind) != cells:
                    raise ValueError(f"expected {cells} cell(s) behind the file name, found {len(behind)}: {line!r}")
            found.append((number, name, behind))

    # Where other lines name a video by its suffix, one that does not is a line of column names, or damaged.
    odd = [(number, name) for number, name, _ in found if not _NAME.fullmatch(name)]
    if odd and len(odd) < len(found):
        number, name = odd[0]
        raise DataError(
            f"{path}, line {number}: {name!r} is not the name of a video, as in other lines. Remove the line, or read "
            "a table with column names as `csv`."
        )
    return [(name, behind) for _, name, behind in found]


def split_line(line: str) -> tuple[str, list[str]]:
    """Split a line of a list into a file name and the cells behind it, separated by tabs, commas or spaces.

    The name may be quoted. Behind it, spaces separate numbers only: words are one label.

    Raises:
        ValueError: the line has no video's suffix, and spaces leave open where the name ends.
    """
    match = re.match(r'"((?:[^"]|"")+)"(?=[\s,;]|$)', line) or _NAME.match(line)
    if match:
        name = match[1].replace('""', '"') if line.startswith('"') else match[1]
        return name, _cells(line[match.end() + 1 :], line[match.end() : match.end() + 1])

    separator = next((mark for mark in "\t,;" if mark in line), " ")
    name, *cells = (line.split() if separator == " " else _cells(line, separator)) or [line]
    if separator == " " and len(cells) > 1 and not all(cell.isdecimal() for cell in cells):
        raise ValueError("spaces leave open where the file name ends. Separate it from its label with a tab or comma")
    return name, cells


def clips_with(ids: Iterable[str], captions: dict[str, list[str]], split: str) -> list[Clip]:
    """Return a clip of each id, whole files of that name, with its captions where there are any."""
    return [Clip(id=name, path=name, captions=tuple(captions.get(name, ())), split=split) for name in ids]


def _csv_rows(text: str, separator: str, path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a table with the lines they end in; blank lines are left out.

    Strict, because a quote that is never closed would otherwise swallow the rows behind it.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}. A cell that contains quotes must be quoted, its quotes doubled."
        ) from error


def _tab_rows(text: str, path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a table with tabs; quotes count only around a whole cell.

    Most writers of such tables quote nothing, so that a caption may begin with a quotation mark. Those that do quote
    may put tabs and line breaks inside: the second reading, where lines have different numbers of cells.
    """
    lines = enumerate(re.split(r"\r\n?|\n", text), 1)
    rows = [(number, [_unquoted(cell) for cell in line.split("\t")]) for number, line in lines if line.strip()]
    if _even(rows):
        return rows
    try:
        quoted = _csv_rows(text, "\t", path)
    except DataError:
        return rows
    return quoted if _even(quoted) else rows


def _even(rows: Iterable[tuple[int, list[str]]]) -> bool:
    return len({len(row) for _, row in rows}) < 2


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if re.fullmatch(r'"(?:[^"]|"")*"', cell) else cell


def _cells(text: str, separator: str) -> list[str]:
    """Return the cells of a line that are not empty."""
    cells = text.split(separator or None)
    if separator == "\t":
        cells = [_unquoted(cell.strip()) for cell in cells]
    elif separator in (",", ";"):
        try:
            cells = next(csv.reader([text], delimiter=separator, skipinitialspace=True), [])
        except csv.Error as error:  # a cell of more than 131,072 characters
            raise ValueError(str(error)) from None
    elif not all(cell.isdecimal() for cell in cells if cell):
        cells = [text]
    return [cell.strip() for cell in cells if cell.strip()]
