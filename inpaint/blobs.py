"""Image bytes under a key: uploads and results, in one store that all processes share.

The store is a folder of files, or a second Redis for hosts that share no disk. A blob lives until
it is deleted, or for the seconds that `Settings.blob_seconds` gives: swept from a folder by the age
of its file, expired by Redis itself. Blobs are never changed, so a key leads to the same bytes
wherever and whenever it is asked for.
"""

import errno
import logging
import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Protocol, TypeVar, cast

from pydantic import StringConstraints
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from . import servers
from .errors import InputGone, StartFailed, StorageUnavailable
from .settings import Settings

KEY = r"^[0-9a-f]{32}$"
BlobKey = Annotated[str, StringConstraints(pattern=KEY)]
PREFIX = "inpaint:blob:"  # of keys in Redis
SOCKET_SECONDS = 8.0  # for 32 MiB at 4 MiB/s
CONNECT_SECONDS = 1.0
PAUSE_SECONDS = 0.2  # between two attempts of one that is patient

GONE = "The file is no longer stored; send it again."

Returned = TypeVar("Returned")
log = logging.getLogger("inpaint.blobs")
_is_key = re.compile(KEY).fullmatch


class Blobs(Protocol):
    """Bytes by key. Threads may share one; async code calls its methods in a thread."""

    def put(self, data: bytes) -> str:
        """Store `data` and return its key, which nobody knows before all of it is stored.

        Raises:
            StorageUnavailable: if the store is full or away; nothing half-written stays.
        """

    def get(self, key: str) -> bytes:
        """Return what `put` stored.

        Raises:
            InputGone: if it was deleted or is past its time.
            StorageUnavailable: if the store is away.
        """

    def delete(self, key: str) -> None:
        """Forget a blob, as far as the store can be reached; the rest goes when its time comes."""

    def sweep(self, seconds: float) -> int:
        """Delete what is older than `seconds`, where the store does not; return how many."""


def open_blobs(settings: Settings, *, patience: float = 0.0) -> Blobs:
    """Open the store that the settings name.

    Args:
        settings: what is set.
        patience: seconds for which a call tries again before it raises StorageUnavailable. A worker
            has patience: an outage of some seconds is no reason to fail a job.

    Raises:
        StartFailed: if the folder cannot be written to, or the store is the queue's own database.
    """
    blobs: Blobs
    if settings.blobs is None:
        blobs = FolderBlobs(settings.blob_folder)
    else:
        servers.check_blobs(settings.blobs, settings.redis)
        blobs = RedisBlobs(settings.blobs, settings.blob_seconds)
    return Patient(blobs, patience) if patience > 0 else blobs


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


class FolderBlobs:
    """Blobs as files of one folder; the age of a blob is its file's modification time."""

    def __init__(self, folder: Path) -> None:
        """Raise StartFailed if the folder cannot be written to."""
        self.folder = made(folder)

    def put(self, data: bytes) -> str:
        """Write a file. No name to be renamed from is needed: nobody knows the key before."""
        key = secrets.token_hex(16)
        path = f"{self.folder}/{key}"
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                written = os.write(file, data)
                while written < len(data):  # more than 2 GiB, or the last room on the disk
                    written += os.write(file, memoryview(data)[written:])
            finally:
                os.close(file)
        except OSError as error:
            with suppress(OSError):
                Path(path).unlink()  # half a file would fill the disk further
            raise _refusal(error) from error
        return key

    def get(self, key: str) -> bytes:
        """Read a file."""
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError as error:
            if self.folder.is_dir():
                raise InputGone(GONE) from error
            raise _refusal(error) from error
        except OSError as error:
            raise _refusal(error) from error

    def delete(self, key: str) -> None:
        """Delete a file."""
        with suppress(OSError):
            self._path(key).unlink()

    def sweep(self, seconds: float) -> int:
        """Delete the files that are older than `seconds`, those of a killed writer too.

        The folder is listed once. Several processes may sweep at the same time.
        """
        horizon = time.time() - seconds
        swept = 0
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if not entry.is_file(follow_symlinks=False):
                        continue
                    with suppress(FileNotFoundError):  # another process was faster
                        if entry.stat(follow_symlinks=False).st_mtime < horizon:
                            Path(entry).unlink()
                            swept += 1
        except OSError as error:
            log.warning("%s cannot be swept: %s", self.folder, error.strerror)
        return swept

    def _path(self, key: str) -> Path:
        return self.folder / _checked(key)


class RedisBlobs:
    """Blobs as strings of a Redis server, which forgets them by itself.

    Args:
        url: the server, another one than the queue's.
        seconds: how long a blob is kept.
    """

    def __init__(self, url: str, seconds: int) -> None:
        self._seconds = seconds
        self._redis = _client(url)

    def put(self, data: bytes) -> str:
        """Set a string. Doing so twice after a lost reply changes nothing: the key is fixed."""
        key = secrets.token_hex(16)
        self._ask(lambda: self._redis.set(PREFIX + key, data, ex=self._seconds))
        return key

    def get(self, key: str) -> bytes:
        """Get a string."""
        name = PREFIX + _checked(key)
        found = self._ask(lambda: self._redis.get(name))
        if found is None:
            raise InputGone(GONE)
        return cast(bytes, found)

    def delete(self, key: str) -> None:
        """Unlink a string: the server frees its memory beside its other work."""
        name = PREFIX + _checked(key)
        with suppress(RedisError):
            self._redis.unlink(name)

    def sweep(self, seconds: float) -> int:
        """Leave it to the server."""
        return 0

    def _ask(self, command: Callable[[], Returned]) -> Returned:
        try:
            return command()
        except RedisError as error:
            raise _refusal(error) from error


class Patient:
    """Blobs of a store that may be away or full for a while; see `open_blobs`."""

    def __init__(self, blobs: Blobs, seconds: float) -> None:
        self._blobs = blobs
        self._seconds = seconds
        self.delete = blobs.delete
        self.sweep = blobs.sweep

    def put(self, data: bytes) -> str:
        """Store, as soon as the store can."""
        return self._insist(lambda: self._blobs.put(data))

    def get(self, key: str) -> bytes:
        """Fetch, as soon as the store can."""
        return self._insist(lambda: self._blobs.get(key))

    def _insist(self, command: Callable[[], Returned]) -> Returned:
        end = time.monotonic() + self._seconds
        while True:
            try:
                return command()
            except StorageUnavailable as refusal:
                if time.monotonic() > end:
                    raise
                log.debug("trying again: %s", refusal)
                time.sleep(PAUSE_SECONDS)


def _client(url: str) -> Redis:
    """A client that tries once more where the server has closed a connection, and no longer."""
    return Redis.from_url(
        url,
        socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )


def _checked(key: str) -> str:
    if not _is_key(key):  # so a key can lead neither out of the folder nor to what is no blob
        raise ValueError(f"{key!r} is not a blob key")
    return key


def _refusal(error: OSError | RedisError) -> StorageUnavailable:
    reason = error.strerror if isinstance(error, OSError) else error
    return StorageUnavailable(f"The store of pictures cannot be used: {reason}; try again later.")
