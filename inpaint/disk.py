"""Files of a command: pictures read with care, results written whole or not at all."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from .errors import FileTooLarge, ImageUnreadable, MaskUnreadable, StorageUnavailable
from .header import Limits

DIGITS = 16  # hexadecimal, of the digest of a name
FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(StorageUnavailable):
    """There is no room for a file, nor for any other."""


def read(path: Path, limits: Limits, field: Literal["image", "mask"]) -> bytes:
    """Read a file, unless its size alone says that it is not accepted.

    Raises:
        FileTooLarge: beyond the limit.
        ImageUnreadable, MaskUnreadable: it cannot be read, or is no regular file.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # a device would never end
            raise OSError(errno.EINVAL, "it is no regular file")
        size = facts.st_size
        if size > limits.max_bytes:
            raise FileTooLarge(
                f"{path} has {size} bytes; at most {limits.max_bytes} are accepted "
                "(INPAINT_MAX_FILE_BYTES).",
                field=field,
            )
        return path.read_bytes()
    except OSError as error:
        refusal = ImageUnreadable if field == "image" else MaskUnreadable
        raise refusal(f"{path} cannot be read: {error.strerror}.", field=field) from error


def write(path: Path, data: bytes, before: Callable[[Path], None] | None = None) -> None:
    """Write a file whole or not at all.

    Args:
        path: of the file.
        data: what is to stand in it.
        before: is given the file under another name, which it loses afterwards.

    Raises:
        StorageUnavailable: if it cannot be written; DiskFull: as there is no room.
    """
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:DIGITS]  # a second try replaces it
    part = path.with_name(f".inpaint-{name}.part")
    try:
        part.write_bytes(data)
        if before is not None:
            before(part)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        kind = DiskFull if error.errno in FULL else StorageUnavailable
        raise kind(f"{path} cannot be written: {error.strerror}.") from error
