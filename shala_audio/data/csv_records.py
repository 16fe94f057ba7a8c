"""A CSV with a header, line by line; a line that does not fit the header is refused, not shifted or cut."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from shala_audio.errors import UserError
from shala_audio.files import readable


def csv_records(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Every line below the header as (`file:line`, its values by column), without spaces around names and before values.

    Raises:
        UserError: no such file, not CSV in UTF-8, two columns of one name, or a line with more or fewer values than columns;
            the message names the line.
    """
    with readable(path), open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True, strict=True)
        try:
            header = [(name or "").strip() for name in reader.fieldnames or []]
            if twice := [name for name, count in Counter(header).items() if count > 1]:
                raise UserError(f"{path}: has two columns named {twice[0]!r}")
            reader.fieldnames = header
            for record in reader:
                if None in record or None in record.values():
                    raise UserError(f"{path}:{reader.line_num}: not as many values as there are columns")
                yield f"{path}:{reader.line_num}", record
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}:{reader.line_num + 1}: cannot be read as CSV in UTF-8 ({error})") from None
