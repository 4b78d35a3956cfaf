"""The journal of `inpaint run` and `inpaint mask`: which results are there, whole, and of what.

A file `.inpaint-run.jsonl` in the folder of the results has a line for each: size and time of the
picture, of its mask and of the result, a digest of the options, and the facts of the report. The
line is written before the result gets its name, so a result whose line is missing is never ours,
and a line whose result is missing is no result. A command that is killed loses what was under way.

A picture is done if its result has the size and time of its line, and picture, mask and options
are as they were. Contents are not compared: what changes a file and leaves both is not noticed.
"""

import errno
import fcntl
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import typer

from .errors import StartFailed
from .options import Conduct
from .pairs import Pair, Pairs, check
from .terminal import printable

NAME = ".inpaint-run.jsonl"
DIGITS = 16  # hexadecimal, of the digest of options

Stamp = list[int]  # size in bytes, time of the last change in nanoseconds


class Journal:
    """The journal of one folder; `add` is for any thread, between `begin` and `close`."""

    def __init__(self, folder: Path) -> None:
        """Read it; lines that were cut off are left out."""
        self._folder = folder
        self._lines: dict[str, dict[str, Any]] = {}
        self._file: FileIO | None = None
        self._lock = threading.Lock()
        with suppress(FileNotFoundError, NotADirectoryError):
            for text in (folder / NAME).read_text(errors="replace").splitlines():
                with suppress(ValueError, TypeError, KeyError):
                    line = json.loads(text)
                    self._lines[line["output"]] = line

    def begin(self) -> None:
        """Open it for writing.

        Raises:
            StartFailed: if another process writes to it, or it cannot be written.
        """
        path = self._folder / NAME
        try:
            self._file = path.open("ab", buffering=0)  # what cannot be written is not tried again
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.write(b"\n")  # ends a line that was cut off
        except BlockingIOError as error:
            self.close()
            raise StartFailed(f"Another command is writing to {self._folder}.") from error
        except OSError as error:
            raise StartFailed(f"{path} cannot be written: {error.strerror}.") from error

    def whole(self, pair: Pair) -> bool:
        """Whether the result is there as an earlier run has written it."""
        line = self._lines.get(self._key(pair))
        return line is not None and line.get("result") == stamp(pair.output)

    def find(self, pair: Pair, options: str) -> dict[str, Any] | None:
        """The facts of a result that is there and of the same picture, mask and options."""
        line = self._lines.get(self._key(pair))
        if line is None or not self.whole(pair):
            return None
        if any(line.get(name) != value for name, value in of(pair, options).items()):
            return None
        facts = line.get("facts")
        return facts if isinstance(facts, dict) else None

    def add(
        self, pair: Pair, inputs: Mapping[str, Any], facts: Mapping[str, Any], part: Path
    ) -> None:
        """Write the line of a result that lies in `part` and is about to get its name.

        Raises:
            OSError: if it cannot be written; nothing of it stays.
        """
        line = {"output": self._key(pair), "result": stamp(part), **inputs, "facts": dict(facts)}
        with self._lock:
            assert self._file is not None
            data, before = (json.dumps(line) + "\n").encode(), self._file.seek(0, os.SEEK_END)
            if self._file.write(data) < len(data):
                self._file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Let others write to it."""
        if self._file is not None:
            self._file.close()

    def _key(self, pair: Pair) -> str:
        return pair.output.relative_to(self._folder).as_posix()


def of(pair: Pair, options: str) -> dict[str, Any]:
    """What a result is made of, as a line has it; taken before the files are read."""
    mask = stamp(pair.mask) if isinstance(pair.mask, Path) else None
    return {"image": stamp(pair.image), "mask": mask, "options": options}


def digest(options: Mapping[str, object]) -> str:
    """A short name of all that decides what a result looks like."""
    text = json.dumps(options, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def stamp(path: Path) -> Stamp | None:
    """Size and time of a file; None if there is none."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return [facts.st_size, facts.st_mtime_ns]


def start(pairs: Pairs, conduct: Conduct) -> Journal | None:
    """Refuse what would be written over, and begin the journal of the folder of the results.

    Returns:
        The journal; None: the result is one file by name.

    Raises:
        BadParameter: there is nothing that could be resumed.
        StartFailed: as `check` and `Journal.begin`.
    """
    if pairs.others:
        others = printable(_counts(pairs.others))
        typer.echo(f"Left out, as their names are no pictures': {others}", err=True)
    if pairs.folder is None:
        if conduct.resume:
            raise typer.BadParameter("It is for results in a folder.", param_hint="--resume")
        check(pairs.all, conduct.report, overwrite=conduct.overwrite)
        return None
    book = Journal(pairs.folder)
    ours = set()
    if conduct.resume:
        ours = {each.output for each in pairs.all if book.whole(each)}
        if conduct.report is not None:
            ours.add(conduct.report)
    check(pairs.all, conduct.report, overwrite=conduct.overwrite, ours=ours)
    book.begin()
    return book


def _counts(others: Counter[str]) -> str:
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
