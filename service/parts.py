"""A multipart form, part by part as it comes in, so that memory holds one file at a time.

Starlette's own parser keeps every file of a form, in memory or as an open file, until the last has
come: two for `POST /inpaint`, thousands for an album.
"""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from inpaint.errors import MalformedMultipart

TEXT_BYTES = 1024 * 1024  # of a part that is no file: a manifest is the longest
HEADER_BYTES = 16 * 1024  # of one part


@dataclass(frozen=True)
class Text:
    """A part without a file name."""

    field: str
    value: str


@dataclass(frozen=True)
class File:
    """A part with a file name."""

    field: str
    name: str
    size: int  # bytes, counted
    data: bytes | None  # None: it was larger than is kept in memory
    spool: IO[bytes] | None = (
        None  # of the fields that are spooled, at their start; who takes it closes it
    )


async def parts(
    request: Request, *, most_bytes: int, spooled: Collection[str] = ()
) -> AsyncIterator[Text | File]:
    """Yield the parts of a form in the order in which they come.

    Args:
        request: whose body nobody has read.
        most_bytes: of a file that is kept in memory; of a larger one only the size is told.
        spooled: fields whose files are written to the disk, however large.

    Raises:
        MalformedMultipart: if the body is not a multipart form, or not whole.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        seen = kind.decode("latin-1")[:64] or "of no type"
        raise MalformedMultipart(f"The body is {seen}; multipart/form-data is accepted.")
    if b"boundary" not in options:
        raise MalformedMultipart("The form cannot be read: its header names no boundary.")
    reader = _Reader(options[b"boundary"])
    part: _Part | None = None
    try:
        async for chunk in request.stream():
            for kind_of_event, data in reader.read(chunk):
                if kind_of_event == "begin":
                    part = _Part(data, most_bytes, spooled)
                assert part is not None, "every part begins"
                if kind_of_event == "data":
                    await part.write(data)
                elif kind_of_event == "end":
                    done, part = part.end(), None
                    yield done
    except (FormParserError, UnicodeError) as error:
        raise MalformedMultipart(f"The form cannot be read: {error}") from error
    except ClientDisconnect as error:
        raise MalformedMultipart("The client went before the body was whole.") from error
    finally:
        if part is not None and part.spool:
            part.spool.close()
    if not reader.whole:
        raise MalformedMultipart("The body ends before its form does.")


class _Reader:
    """Bytes to events: ("begin", Content-Disposition), ("data", bytes), ("end", b"")."""

    def __init__(self, boundary: bytes) -> None:
        self.whole = False
        self._events: list[tuple[str, bytes]] = []
        self._name = self._value = self._disposition = b""
        self._seen = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._field,
                "on_header_value": self._content,
                "on_header_end": self._header,
                "on_headers_finished": lambda: self._tell("begin", self._disposition),
                "on_part_data": lambda data, start, end: self._tell("data", data[start:end]),
                "on_part_end": lambda: self._tell("end", b""),
                "on_end": self._end,
            },
        )

    def read(self, chunk: bytes) -> list[tuple[str, bytes]]:
        """What a chunk of the body brings."""
        self._events = []
        self._parser.write(chunk)
        return self._events

    def _tell(self, event: str, data: bytes) -> None:
        self._events.append((event, data))

    def _begin(self) -> None:
        self._name = self._value = self._disposition = b""
        self._seen = 0

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += self._counted(data[start:end])

    def _content(self, data: bytes, start: int, end: int) -> None:
        self._value += self._counted(data[start:end])

    def _counted(self, data: bytes) -> bytes:
        self._seen += len(data)
        if self._seen > HEADER_BYTES:
            raise MalformedMultipart("The form cannot be read: the header of a part is too long.")
        return data

    def _header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _end(self) -> None:
        self.whole = True


class _Part:
    """A part that is coming in."""

    def __init__(self, disposition: bytes, most_bytes: int, spooled: Collection[str]) -> None:
        _, options = parse_options_header(disposition)
        if b"name" not in options:
            raise MalformedMultipart("The form cannot be read: a part has no name.")
        self.field = _text(options[b"name"])
        self.name = _text(options[b"filename"]) if b"filename" in options else None
        self.spool: IO[bytes] | None = None
        if self.name is not None and self.field in spooled:
            self.spool = TemporaryFile()  # noqa: SIM115  # whoever the part is given to closes it
        self._most = most_bytes if self.name is not None else TEXT_BYTES
        self._size = 0
        self._data = bytearray()

    async def write(self, data: bytes) -> None:
        self._size += len(data)
        if self.spool:
            await run_in_threadpool(self.spool.write, data)
        elif self._size <= self._most:
            self._data += data
        elif self.name is None:
            raise MalformedMultipart(
                f"The field {self.field[:64]} has more than {TEXT_BYTES} bytes. A file needs a"
                " filename."
            )
        else:
            self._data.clear()

    def end(self) -> Text | File:
        if self.name is None:
            return Text(self.field, _text(self._data))
        if self.spool:
            self.spool.seek(0)
            return File(self.field, self.name, self._size, None, self.spool)
        whole = bytes(self._data) if self._size <= self._most else None
        return File(self.field, self.name, self._size, whole)


def _text(data: bytes | bytearray) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
