"""What a folder of results knows of the album that they come from: `.inpaint-album.jsonl`.

A line for each album, with the server and a digest of what was asked for, then a line for each
photograph that it took: its item's number, and size and time of the files that were sent. Results
have the lines of `inpaint.journal`, which also keeps other commands out of the folder.
"""

import json
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inpaint.errors import StartFailed

NAME = ".inpaint-album.jsonl"

Inputs = dict[str, Any]  # of `inpaint.journal.of`


@dataclass(frozen=True)
class Known:
    """An album that was made."""

    server: str  # URL
    album: str  # id
    digest: str


class State:
    """The last album, and what it took; methods are for any thread.

    Attributes:
        known: the last album; None: there is none.
        sent: by the photograph's name, its item's number and what was sent.
    """

    def __init__(self, folder: Path) -> None:
        """Read it; lines that were cut off are left out."""
        self._path = folder / NAME
        self._lock = threading.Lock()
        self.known: Known | None = None
        self.sent: dict[str, tuple[int, Inputs]] = {}
        self._begun = False
        with suppress(FileNotFoundError, NotADirectoryError):
            for text in self._path.read_text(errors="replace").splitlines():
                with suppress(ValueError, TypeError, KeyError):
                    self._read(json.loads(text))

    def _read(self, line: dict[str, Any]) -> None:
        if "album" in line:
            self.known, self.sent = Known(**line), {}
        else:
            self.sent[line["name"]] = int(line["number"]), dict(line["inputs"])

    def album(self, known: Known) -> None:
        """Begin another album."""
        self.known, self.sent = known, {}
        self._write(vars(known))

    def took(self, name: str, number: int, inputs: Inputs) -> None:
        """Say that the album took a photograph."""
        self.sent[name] = number, inputs
        self._write({"name": name, "number": number, "inputs": inputs})

    def _write(self, line: dict[str, Any]) -> None:
        text = ("" if self._begun else "\n") + json.dumps(line) + "\n"  # ends one that was cut off
        try:
            with self._lock, self._path.open("a") as file:
                file.write(text)
        except OSError as error:
            raise StartFailed(f"{self._path} cannot be written: {error.strerror}.") from error
        self._begun = True
