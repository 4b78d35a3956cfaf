"""A light client for measurements: prebuilt requests over connections that stay open.

One request of httpx costs more than the whole gateway; this costs about a tenth of a millisecond.
In: bytes of whole requests. Out: answers, or rate and waiting times of many clients at once, each
of which sends its next request once the last one is answered (a closed loop).
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

from inpaint.errors import InpaintError

ANSWER_SECONDS = 600.0  # for one answer, however many wait
BOUNDARY = b"inpaint-bench-5f0c9a"
WAIT = "wait=600"  # seconds; the gateway grants what its settings allow

Returned = TypeVar("Returned")


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]  # names in small letters
    body: bytes


@dataclass(frozen=True)
class Load:
    """What many clients saw together."""

    rate: float  # answers per second
    waits: tuple[float, ...]  # seconds from request to answer, of those that were counted
    last: Answer

    def wait_ms(self, percent: float) -> float:
        """The percentile of the waiting times, milliseconds."""
        return 1000 * float(np.percentile(self.waits, percent))


def post(
    path: str,
    files: dict[str, bytes],
    fields: dict[str, str] | None = None,
    *,
    prefer: str = WAIT,
) -> bytes:
    """Return a whole request with a multipart form."""
    parts = []
    for name, value in (fields or {}).items():
        parts.append(b'Content-Disposition: form-data; name="%s"\r\n\r\n' % name.encode())
        parts[-1] += value.encode()
    for name, data in files.items():
        about = b'Content-Disposition: form-data; name="%s"; filename="%s"\r\n' % (
            (name.encode(),) * 2
        )
        parts.append(about + b"Content-Type: application/octet-stream\r\n\r\n" + data)
    body = b"".join(b"--%s\r\n%s\r\n" % (BOUNDARY, part) for part in parts)
    body += b"--%s--\r\n" % BOUNDARY
    kind = b"multipart/form-data; boundary=" + BOUNDARY
    head = b"POST %s HTTP/1.1\r\nHost: bench\r\nPrefer: %s\r\n" % (path.encode(), prefer.encode())
    return head + b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(body), body)


def get(path: str) -> bytes:
    """Return a whole request."""
    return b"GET %s HTTP/1.1\r\nHost: bench\r\n\r\n" % path.encode()


class Connection(asyncio.Protocol):
    """One connection, opened when it is needed; it carries one request at a time.

    Answers need a Content-Length, which both servers that are measured give.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._received = bytearray()
        self._end = 0  # of the answer that is being received; 0 while its head is not complete

    async def ask(self, request: bytes, seconds: float = ANSWER_SECONDS) -> Answer:
        """Send a request and return the answer.

        Raises:
            ConnectionError: if the server is away, or went away before it answered.
            TimeoutError: if it has not answered in time; the connection is closed then.
        """
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, self._host, self._port)
        assert self._transport is not None
        self._answer = loop.create_future()
        self._transport.write(request)
        try:
            return await asyncio.wait_for(self._answer, seconds)
        except TimeoutError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; it is opened again when it is needed."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no such class
        self._received.clear()
        self._end = 0

    def data_received(self, data: bytes) -> None:
        """Collect an answer."""
        self._received += data
        if not self._end:
            head = self._received.find(b"\r\n\r\n")
            if head < 0:
                return
            self._status, self._headers = _head(bytes(self._received[:head]))
            self._start = head + 4
            self._end = self._start + int(self._headers.get("content-length", "0"))
        if len(self._received) >= self._end:
            body = bytes(self._received[self._start : self._end])
            self._received.clear()
            self._end = 0
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(Answer(self._status, self._headers, body))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell who waits."""
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the server closed the connection"))


def run(work: Coroutine[Any, Any, Returned]) -> Returned:
    """Run a coroutine in a fast event loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def ask(url: str, request: bytes) -> Answer:
    """Send one request over a connection of its own; any answer but 200 is an error."""

    async def once() -> Answer:
        connection = Connection(url)
        try:
            return succeeded(await connection.ask(request))
        finally:
            connection.close()

    return run(once())


def succeeded(answer: Answer) -> Answer:
    """Return an answer with status 200.

    Raises:
        InpaintError: for any other, with what it says.
    """
    if answer.status != 200:
        text = answer.body[:500].decode(errors="replace")
        raise InpaintError(f"a request was answered with {answer.status}: {text}")
    return answer


async def drive(
    url: str,
    requests: Sequence[bytes],
    *,
    clients: int,
    seconds: float,
    least: int = 1,
    warm: int = 1,
    note: Callable[[Answer], object] = succeeded,
) -> Load:
    """Send requests from many clients at once and count what is answered.

    Args:
        url: of the server.
        requests: each client begins with another one and goes round.
        clients: how many.
        seconds: for how long is counted, at least.
        least: how many answers are counted, at least.
        warm: answers per client before it is counted.
        note: is given every answer.
    """
    waits: list[float] = []
    began = time.perf_counter()
    counting = False
    ended: list[float] = []
    warmed = 0
    last: list[Answer] = []

    async def client(number: int) -> None:
        nonlocal warmed, began, counting
        connection = Connection(url)
        try:
            for turn in range(1_000_000_000):
                sent = time.perf_counter()
                answer = await connection.ask(requests[(number + turn) % len(requests)])
                now = time.perf_counter()
                note(answer)
                if ended:
                    return
                if counting:
                    waits.append(now - sent)
                    if now - began >= seconds and len(waits) >= least:
                        ended.append(now)
                        last.append(answer)
                        return
                warmed += 1
                if warmed == clients * warm:
                    began, counting = now, True
        finally:
            connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return Load(len(waits) / (ended[0] - began), tuple(waits), last[0])


def load(url: str, requests: Sequence[bytes], **options: Any) -> Load:  # those of `drive`
    """`drive`, in an event loop of its own."""
    return run(drive(url, requests, **options))


def _head(data: bytes) -> tuple[int, dict[str, str]]:
    """Read status line and headers."""
    first, *lines = data.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}
