"""Image bytes under a key: uploads and results, files of one folder that all processes share.

A blob lives until it is deleted or swept; its age is its file's modification time.
"""

import errno
import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints

from .errors import InputGone, StartFailed, StorageUnavailable

KEY = r"^[0-9a-f]{32}$"
BlobKey = Annotated[str, StringConstraints(pattern=KEY)]
UNFINISHED = ".part"  # suffix of a file that is still being written


def made(folder: Path) -> Path:
    """Make a folder of the data folder where it is missing, and return it.

    Raises:
        StartFailed: if it cannot be made or written to, with what the system says.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise StartFailed(
            f"The data folder {folder.absolute()} cannot be written to: {error.strerror}. Set"
            " INPAINT_DATA to another folder."
        ) from error
    return folder


class Blobs:
    """Bytes by key in one folder. Methods touch the disk: async code calls them in a thread."""

    def __init__(self, folder: Path) -> None:
        """Raise StartFailed if the folder cannot be written to."""
        self.folder = made(folder)

    def put(self, data: bytes) -> str:
        """Store `data` and return its key; nobody ever sees half of it.

        Raises:
            StorageUnavailable: if the disk is full or the folder cannot be written to.
        """
        key = secrets.token_hex(16)
        unfinished = self.folder / (key + UNFINISHED)
        try:
            unfinished.write_bytes(data)
            unfinished.rename(self.folder / key)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink()  # half a file would fill the disk further
            raise StorageUnavailable(
                f"The picture cannot be stored: {error.strerror}; try again later."
            ) from error
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
