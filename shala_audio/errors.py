"""The one error that a user can cause and mend."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches

Note = Callable[[str], None]  # is told what is odd, and can be used all the same


def no_note(remark: str) -> None:
    """For who does not ask what is odd."""


class UserError(Exception):
    """A wrong request: a bad path, option or file. The message is one line that names it and says what to do.

    The command line prints it and exits with status 2, without a traceback.
    """

    one_process = False  # of several: whether it alone has the complaint, so that the others cannot say it


class Stopped(Exception):
    """Work that was stopped because it could not succeed any more. The message says why and what to try.

    The command line prints it and exits with status 1, without a traceback.
    """


def missing_extra(error: ImportError, what: str, extra: str) -> UserError:
    """What to say where a package of an extra is not installed.

    >>> print(missing_extra(ImportError("No module named 'trl'"), "training", "train"))
    training: No module named 'trl'; in the clone, pip install '.[train]'
    """
    return UserError(f"{what}: {first_line(error)}; in the clone, pip install '.[{extra}]'")


def first_line(error: Exception) -> str:
    """What an error of a library says first, or what it is called where it says nothing.

    >>> first_line(ValueError("no such layer\\nTraceback ...")), first_line(ValueError())
    ('no such layer', 'ValueError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def nearest(wrong: str, right: Iterable[str]) -> str:
    """A question after the one that was meant, to stand in a message; nothing where none is near.

    >>> nearest("jsno", ["table", "json", "jsonl"])
    '; did you mean json?'
    >>> nearest("x", ["table"])
    ''
    """
    found = get_close_matches(str(wrong), list(right), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def not_one_of(name: str, wrong: str, right: Iterable[str]) -> UserError:
    """The error that an option, or a field of a file, has none of the values it may have.

    >>> str(not_one_of("--format", "jsno", ["table", "json"]))
    "--format is 'jsno'; did you mean json? Use one of table, json"
    """
    right = list(right)
    near = nearest(wrong, right)
    return UserError(f"{name} is {wrong!r}{near}{' Use' if near else '; use'} one of {', '.join(right)}")
