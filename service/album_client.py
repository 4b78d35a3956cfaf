"""A client of the album's endpoints that outlives restarts of the server and lost connections.

Whatever can be sent twice without harm is: a photograph that is there already is answered with the
item that it became. 429 and 503 are waited out for as long as `Retry-After` says.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from inpaint.errors import InpaintError, Internal, QueueUnavailable, StartFailed
from inpaint.jobs import Problem

ANSWER_SECONDS = 60.0  # for one answer
SILENCE_SECONDS = 40.0  # of events; the server says something every 15 s
PATIENCE_SECONDS = 300.0  # with a server that is away or has no room
PAUSES = (0.25, 0.5, 1.0, 2.0, 5.0)  # seconds between tries where the server does not say; the last
MOST_PAUSE_SECONDS = 60.0  # whatever it says
AGAIN = (429, 502, 503, 504)  # the second and last are a proxy's
ENDED = ("succeeded", "partial", "failed", "canceled")  # statuses of albums


class Stopped(Exception):
    """The client was told to stop."""


class Server:
    """One server; methods are for any thread."""

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        """Connect at the first request.

        Args:
            url: of the server.
            say: is told that something is being tried again.
        """
        self.url = url.rstrip("/")
        self.stopped = threading.Event()
        self._say = say
        try:
            self._http = httpx.Client(base_url=self.url, timeout=ANSWER_SECONDS, trust_env=False)
        except (httpx.InvalidURL, ValueError) as error:
            raise StartFailed(f"{url} is no address of a server: {error}.") from error

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def info(self) -> dict[str, Any]:  # JSON
        """`GET /info`, tried once.

        Raises:
            StartFailed: if no such server answers.
        """
        try:
            answer = self._http.get("/info")
            return dict(answer.raise_for_status().json())
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise StartFailed(f"No server answers at {self.url}: {error}.") from error

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:  # as httpx takes them
        """Send a request until it is answered.

        Raises:
            InpaintError: what the answer states.
            QueueUnavailable: the server was away, or had no room, for PATIENCE_SECONDS.
            Stopped: `stopped` was set meanwhile.
        """
        deadline, tries = time.monotonic() + PATIENCE_SECONDS, 0
        while True:
            if self.stopped.is_set():
                raise Stopped
            pause = PAUSES[min(tries, len(PAUSES) - 1)]
            try:
                answer = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                refusal: InpaintError = QueueUnavailable(f"{self.url} does not answer: {error}.")
            else:
                if answer.is_success:
                    return answer
                refusal = _problem(answer)
                if answer.status_code not in AGAIN:
                    raise refusal
                pause = _retry_after(answer, pause)
            if time.monotonic() + pause > deadline:
                raise refusal
            if tries == 2:
                self._say(f"{refusal.detail} Trying again.")
            tries += 1
            self.stopped.wait(pause)

    def events(self, album: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield kind and body of each event, until the album has ended; empty ones in silence.

        Raises: as `ask`.
        """
        last = "0"
        while True:
            try:
                headers = {"Last-Event-ID": last}
                with self._http.stream(
                    "GET", f"/albums/{album}/events", headers=headers, timeout=SILENCE_SECONDS
                ) as answer:
                    if answer.status_code == httpx.codes.NO_CONTENT:
                        return
                    if not answer.is_success:
                        answer.read()
                        raise httpx.RemoteProtocolError(answer.text[:200])
                    for kind, last_seen, body in _parse(answer.iter_lines()):
                        last = last_seen or last
                        yield kind, body
                        if kind in ENDED:
                            return
            except httpx.TransportError:
                pass
            self.stopped.wait(PAUSES[0])
            self.ask("GET", f"/albums/{album}")  # waits until it answers, or says why it does not
            yield "", {}


def _parse(lines: Iterator[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield kind, id and body of each event of a stream; empty ones for comments."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            yield "", "", {}
        elif line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif fields:
            body = json.loads(fields.get("data", "{}"))
            yield fields.get("event", ""), fields.get("id", ""), body
            fields = {}


def _problem(answer: httpx.Response) -> InpaintError:
    try:
        body = answer.json()
        return Problem(code=body["code"], detail=body["detail"]).error()
    except (ValueError, KeyError, TypeError):
        return Internal(f"The server answered {answer.status_code}: {answer.text[:200]}")


def _retry_after(answer: httpx.Response, default: float) -> float:
    try:
        return min(max(float(answer.headers["Retry-After"]), PAUSES[0]), MOST_PAUSE_SECONDS)
    except (KeyError, ValueError):
        return default
