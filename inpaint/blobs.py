"""Image bytes under a key: uploads and results, files of one folder that all processes share.

A blob lives until it is deleted or swept; its age is its file's modification time.
"""

import re
import secrets
import time
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints

from .errors import InputGone

KEY = r"^[0-9a-f]{32}$"
BlobKey = Annotated[str, StringConstraints(pattern=KEY)]
UNFINISHED = ".part"  # suffix of a file that is still being written


class Blobs:
    """Bytes by key in one folder. Methods touch the disk: async code calls them in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Store `data` and return its key; nobody ever sees half of it."""
        key = secrets.token_hex(16)
        unfinished = self.folder / (key + UNFINISHED)
        unfinished.write_bytes(data)
        unfinished.rename(self.folder / key)
        return key

    def get(self, key: str) -> bytes:
        """Return what `put` stored.

        Raises:
            InputGone: if it was deleted or swept.
        """
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError as error:
            raise InputGone("The file is no longer stored; send it again.") from error

    def delete(self, key: str) -> None:
        """Forget a blob; one that is gone already is no error."""
        self._path(key).unlink(missing_ok=True)

    def sweep(self, seconds: float) -> int:
        """Delete what is older than `seconds`, unfinished files too; return how many."""
        horizon = time.time() - seconds
        swept = 0
        for path in self.folder.iterdir():
            try:
                if path.stat().st_mtime < horizon:
                    path.unlink()
                    swept += 1
            except FileNotFoundError:  # another process swept it between listing and looking
                continue
        return swept

    def _path(self, key: str) -> Path:
        if not re.fullmatch(KEY, key):  # so a key can never lead out of the folder
            raise ValueError(f"{key!r} is not a blob key")
        return self.folder / key
