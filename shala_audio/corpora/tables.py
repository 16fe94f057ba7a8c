"""Tables as people have them: CSV of any delimiter and encoding, and Excel; and strings in the one way they are compared.

What had to be recognised is told to `note`. A line that does not fit the header is refused, not shifted or cut.
"""

from __future__ import annotations

import codecs
import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shala_audio.errors import Note, UserError, no_note
from shala_audio.io import readable

Record = tuple[str, dict[str, str]]  # where it stands (`file:line`), and its values by column
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_INVISIBLE = dict.fromkeys(
    map(ord, "\u200b\u2060\ufeff\u00ad\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
)
_JOINERS = dict.fromkeys(map(ord, "\u200c\u200d"))  # which some scripts and emoji need in texts
_QUOTES = str.maketrans({"‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "‟": '"', "ʼ": "'"})


def plain_text(text: str) -> str:
    """A text without what nobody sees: composed characters (NFC), no zero-width ones, no spaces around.

    >>> plain_text("cafe\\u0301\\ufeff ") == "caf\\u00e9"
    True
    """
    return unicodedata.normalize("NFC", text).translate(_INVISIBLE).strip()


def plain_label(label: str) -> str:
    """A label, or a name, in the one way that counts: as `plain_text`, with straight quotes and single spaces.

    >>> plain_label("don\\u2019t\\u00a0 know\\u200d")
    "don't know"
    """
    return " ".join(plain_text(label).translate(_JOINERS).translate(_QUOTES).split())


def csv_records(path: Path, note: Note = no_note, encoding: str | None = None) -> Iterator[Record]:
    """Every line below the header as (`file:line`, its values by column), without spaces around names and before values.

    Delimiter (comma, semicolon, tab, bar) and encoding (UTF-8, UTF-16, Windows' cp1252) are recognised. Columns without a
    name and a value, and lines without any value, are passed over.

    Args:
        path: .csv, .tsv or .xlsx, of which the first sheet is read.
        note: told what is not a comma and UTF-8, and what is passed over.
        encoding: of a CSV file; recognised where None.

    Raises:
        UserError: no such file, no table, two columns of one name, or a line with more or fewer values than columns; the
            message names the line.
    """
    if path.suffix.lower() in (".xlsx", ".xlsm"):
        lines: Iterator[tuple[int, list[str]]] = _excel_lines(path, note)
    elif path.suffix.lower() in (".xls", ".ods", ".numbers"):
        raise UserError(f"{path}: save it as .xlsx or as CSV in UTF-8, which are read")
    else:
        lines = _csv_lines(path, note, encoding)
    header: list[str] | None = None
    unnamed: list[int] = []
    empty = 0
    for number, values in lines:
        if header is None:
            if not any(value.strip() for value in values):
                continue
            header = [plain_label(name) for name in values]
            while header and not header[-1]:
                header.pop()
            unnamed = [place for place, name in enumerate(header) if not name]
            if len(unnamed) == 1:  # as row names are written
                unnamed = []
            named = [name for name in header if name or not unnamed]
            if twice := [name for name, count in Counter(named).items() if count > 1]:
                raise UserError(f"{path}: has two columns named {twice[0]!r}")
            continue
        if not any(value.strip() for value in values):
            empty += 1
            continue
        where = f"{path}:{number}"
        while len(values) > len(header) and not values[-1].strip():
            values = values[:-1]
        if len(values) != len(header):
            shown = ", ".join(header)
            raise UserError(
                f"{where}: not as many values as there are columns ({len(values)}, and {len(header)} columns: {shown[:200]}); the "
                "first line must be the header, and a value with a delimiter in it must stand in quotes"
            )
        if plain_label(values[0]) == header[0] and [plain_label(value) for value in values] == header:
            raise UserError(f"{where}: the header stands there again; remove the line")
        if (wrong := next((place for place in unnamed if values[place].strip()), None)) is not None:
            raise UserError(f"{where}: a value ({values[wrong]!r}) in column {wrong + 1}, which has no name")
        yield where, {name: value for name, value in zip(header, values, strict=True) if name or not unnamed}
    if empty:
        note(f"{path}: {empty} lines without any value are passed over")


def _csv_lines(path: Path, note: Note, encoding: str | None) -> Iterator[tuple[int, list[str]]]:
    with readable(path):
        raw = path.read_bytes()
    if raw.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UserError(
            f"{path}: is a file of Excel or an archive, and no CSV; name it .xlsx, or save it as CSV in UTF-8"
        )
    if raw.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise UserError(f"{path}: is an HTML page, and no table: perhaps that of a log-in; download it again")
    text, found = _decoded(path, raw, encoding)
    if found.startswith("cp1252"):
        note(f"{path}: read as {found}; if its letters are wrong, name another with --encoding")
    elif found not in ("utf-8", "utf-8-sig", encoding):
        note(f"{path}: read as {found}")
    if "\0" in text:
        raise UserError(f"{path}: holds bytes that are 0; save it as CSV in UTF-8")
    delimiter = None
    first = text.split("\n", 1)[0].strip('\r "')
    before = 0
    if first.lower().startswith("sep=") and len(first) == 5:  # Excel's own way to say it
        delimiter, text, before = first[4], text.split("\n", 1)[1] if "\n" in text else "", 1
    if delimiter is None:
        delimiter = _delimiter(text, path)
    if delimiter != ",":
        note(f"{path}: values are separated by {DELIMITERS.get(delimiter, repr(delimiter))}")
    letters = delimiter == "\t" and not _reads(text, delimiter)  # quotes are letters like others
    quoting: Any = csv.QUOTE_NONE if letters else csv.QUOTE_MINIMAL
    file, spaces = io.StringIO(text, newline=""), delimiter != "\t"
    reader = csv.reader(file, delimiter=delimiter, quoting=quoting, skipinitialspace=spaces, strict=True)
    try:
        for values in reader:
            yield before + reader.line_num, values
    except csv.Error as error:
        raise UserError(f"{path}:{before + reader.line_num + 1}: cannot be read as CSV ({error})") from None


def _reads(text: str, delimiter: str) -> bool:
    try:
        return all(True for _ in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error:
        return False


def _decoded(path: Path, raw: bytes, asked: str | None) -> tuple[str, str]:
    """Text of a table, and its encoding."""
    if asked is not None:
        try:
            return raw.decode(asked), asked
        except (UnicodeDecodeError, LookupError) as error:
            raise UserError(f"{path}: cannot be read as {asked} ({error})") from None
    encoding = next((name for mark, name in _BOMS if raw.startswith(mark)), None)
    if encoding is None:
        zeros = raw[:400].count(0)
        encoding = "utf-8"
        if zeros > len(raw[:400]) // 5:  # UTF-16 without a mark: every other byte of ASCII is 0
            encoding = "utf-16-le" if raw[1:400:2].count(0) > raw[:400:2].count(0) else "utf-16-be"
    try:
        return raw.decode(encoding), encoding
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        if encoding != "utf-8":
            raise UserError(f"{path}:{line}: cannot be read as {encoding} ({error.reason}); save it as UTF-8") from None
    lines = [part for part in raw.split(b"\n") if any(byte > 127 for byte in part)]
    good = sum(map(_is_utf8, lines))
    if good:
        raise UserError(f"{path}:{line}: is not UTF-8, as {good} other lines are; save the table as CSV in UTF-8")
    try:
        return raw.decode("cp1252"), "cp1252 (Windows, Western European)"
    except UnicodeDecodeError:
        raise UserError(
            f"{path}:{line}: neither UTF-8 nor cp1252; name its encoding with --encoding, or save it as CSV in UTF-8"
        ) from None


def _is_utf8(part: bytes) -> bool:
    try:
        part.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _delimiter(text: str, path: Path) -> str:
    """What separates the values: what the header has, and most lines as often as it."""
    lines = [line for line in text.split("\n", 200)[:200] if line.strip()]
    if not lines:
        raise UserError(f"{path}: is empty")
    best, most = ",", -1.0
    for delimiter in DELIMITERS:
        try:
            counts = [len(row) for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter, strict=False)]
        except csv.Error:
            continue
        columns = counts[0] if counts else 1
        if columns > 1:
            alike = sum(count == columns for count in counts) / len(counts)
            if alike > most:
                best, most = delimiter, alike
    return best


def _excel_lines(path: Path, note: Note) -> Iterator[tuple[int, list[str]]]:
    try:
        from openpyxl import load_workbook
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError:
        raise UserError(
            f"{path}: Excel's files need openpyxl (pip install openpyxl); or save it as CSV in UTF-8"
        ) from None
    import zipfile

    try:
        with readable(path), open(path, "rb") as file:
            book = load_workbook(file, read_only=True, data_only=True)
            names = book.sheetnames
            if len(names) > 1:
                note(f"{path}: only the first of its sheets is read: {', '.join(names)}")
            for number, row in enumerate(book.worksheets[0].iter_rows(values_only=True), start=1):
                yield number, [_cell(value) for value in row]
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as an Excel file ({error})") from None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def one_edit_apart(one: str, two: str) -> bool:
    """Whether a letter more, less or other, or two in the other order, makes one word the other.

    >>> one_edit_apart("happy", "hapy"), one_edit_apart("angry", "anrgy"), one_edit_apart("sad", "glad")
    (True, True, False)
    """
    if one == two or abs(len(one) - len(two)) > 1:
        return False
    start = next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    a, b = one[start:], two[start:]
    return a[1:] == b or a == b[1:] or a[1:] == b[1:] or (a[:2] == b[:2][::-1] and a[2:] == b[2:])


def check_columns(path: Path, wanted: Sequence[str], there: Sequence[str]) -> None:
    """Raise UserError where a table does not have a column."""
    for column in wanted:
        if column not in there:
            raise UserError(f"{path}: has no column {column!r}, but {', '.join(there)}")
