"""Instructions that lie beside pictures: one text file each, a table, or one text for all."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kontext.data.layouts.base import Opened, Picture, Problem, Row, parsed_json, shown, walk
from kontext.errors import SourceError

TEXT_FOLDERS = ("captions", "instructions", "prompts", "texts", "text")
TABLES = ("metadata.jsonl", "metadata.csv")
FOR_ALL = ("instruction.txt", "prompt.txt")
TEXT_COLUMNS = ("instruction", "edit_prompt", "edit_instruction", "prompt", "text", "caption")
_SUFFIXES = (".txt", ".caption")


class Texts:
    """The instructions of a data set that lie in `root` and its `folders`.

    A text is taken, in this order: from a file of the picture's name (in the folders, in a folder
    for texts, in the root), from a table's row with the picture's file name, from the one text for
    all. A file's line end is not part of its text.

    Raises:
        SourceError: a table or text cannot be read.
    """

    def __init__(self, root: Path, folders: Sequence[Path], top: Path | None = None) -> None:
        """`top` is the folder that names are said from, where it is another than `root`."""
        self.root, self.top = root, top or root
        named = [root / name for name in TEXT_FOLDERS if (root / name).is_dir()]
        self._folders = list(dict.fromkeys((*folders, *named, root)))
        deep = {*folders, *named}
        found = {
            path
            for folder in self._folders
            for path, reason in walk(folder, self.top)
            if not reason and (folder in deep or path.parent == root)
        }
        self._files = {path for path in found if path.suffix.lower() in _SUFFIXES}
        self._used: set[Path] = set()
        here = (folder / name for folder in self._folders for name in TABLES)
        self._tables = {table: dict(_table(table)) for table in here if table in found}
        self._taken: set[tuple[Path, str]] = set()  # rows of tables, by the names that they have
        self._for_all = next((root / name for name in FOR_ALL if root / name in found), None)
        self._problems = [p for table in self._tables for p in _problems(table)]

    def of(self, key: str, picture: Path) -> str:
        """The text of the picture whose path without suffix is `key`; "" where there is none.

        Raises SourceError where its file cannot be read.
        """
        for folder in self._folders:
            for suffix in _SUFFIXES:
                file = folder / (key + suffix)
                if file in self._files:
                    self._used.add(file)
                    return read_text(file)
        for table, texts in self._tables.items():
            names = (picture.name, _inside(picture, table.parent), _inside(picture, self.root))
            if found := next((name for name in names if name in texts), ""):
                self._taken.add((table, found))
                return texts[found]
        if self._for_all is None:
            return ""
        self._used.add(self._for_all)
        return read_text(self._for_all)

    def outcomes(self) -> Iterator[Problem | Opened]:
        """Tables and texts that were read, and what of them belongs to no picture."""
        yield from self._problems
        for table, texts in self._tables.items():
            yield Opened(table)
            for name in texts:
                if (table, name) not in self._taken:
                    at = f"{shown(table, self.top)}:{name}"
                    yield Problem(at, "not_used", "a text that no picture took")
        for path in sorted(self._files):
            if path in self._used:
                yield Opened(path)
            else:
                yield Problem(shown(path, self.top), "not_used", "a text without its picture")


def worded(
    texts: Texts, keys: Sequence[str], target: Path, contexts: Sequence[Path]
) -> Row | Problem:
    """The pair of these pictures with the text of the first of its `keys` that has one."""
    at = shown(target, texts.top)
    try:
        instruction = next((text for key in keys if (text := texts.of(key, target))), "")
    except SourceError as error:
        return Problem(at, "instruction_unreadable", str(error), tuple(contexts))
    if not instruction.strip():
        return Problem(at, "instruction_missing", f"no text for {keys[0]}", tuple(contexts))
    pictures = tuple(Picture(shown(one, texts.top), one) for one in contexts)
    chain = pictures[0].ref if pictures else at
    return Row(at, Picture(at, target), pictures, instruction, chain)


def read_text(path: Path) -> str:
    """A text file without the line end that editors add. Raises SourceError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path.name}: {error}") from error
    return text.rstrip("\r\n")


def _inside(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _table(path: Path) -> Iterator[tuple[str, str]]:
    """(file name, text) of the rows of a table as Hugging Face's imagefolder has it."""
    for row in table_rows(path):
        if isinstance(row, Problem):
            continue
        name = row.get("file_name")
        text = next((row[c] for c in TEXT_COLUMNS if isinstance(row.get(c), str) and row[c]), "")
        if isinstance(name, str) and text:
            yield name, text


def _problems(table: Path) -> list[Problem]:
    return [row for row in table_rows(table) if isinstance(row, Problem)]


def table_rows(path: Path) -> Iterator[dict[str, Any] | Problem]:
    """Rows of a .jsonl, .json (a list), .csv or .tsv file; a Problem for a line that is none.

    Raises:
        SourceError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in (".csv", ".tsv"):
                head = file.readline()
                file.seek(0)
                between = max(",;\t", key=head.count)  # a spreadsheet's depends on its language
                yield from _csv_rows(path, csv.DictReader(file, delimiter=between))
            elif path.suffix.lower() == ".json":
                found = parsed_json(file.read())
                if not isinstance(found, list) or not all(isinstance(r, dict) for r in found):
                    raise SourceError(f"{path.name}: not a list of objects")
                yield from found
            else:
                yield from _json_lines(path, file)
    except (OSError, csv.Error, ValueError) as error:
        raise SourceError(f"{path.name}: {error}") from error


def _csv_rows(path: Path, rows: "csv.DictReader[str]") -> Iterator[dict[str, Any] | Problem]:
    """Rows with no more cells than there are columns: else a comma may have cut a text."""
    for row in rows:
        more: Any = row.pop(None, None)
        if more and any(cell.strip() for cell in more):
            why = "more cells than columns: a text with a comma needs quotes"
            yield Problem(f"{path.name}:{rows.line_num}", "row_malformed", why)
        else:
            yield row


def _json_lines(path: Path, lines: Iterable[str]) -> Iterator[dict[str, Any] | Problem]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parsed_json(line)
        except ValueError as error:
            yield Problem(f"{path.name}:{number}", "row_malformed", str(error))
            continue
        if isinstance(row, dict):
            yield row
        else:
            yield Problem(f"{path.name}:{number}", "row_malformed", "no JSON object")
