"""Photographs on their way to albums and back.

In: items, a server, what was sent before. Out: results, written as they are done. One thread sends
photographs one by one, each with its mask; the main one hears which are done and fetches them.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from inpaint import disk, journal
from inpaint.disk import DiskFull
from inpaint.errors import (
    AlbumClosed,
    AlbumTooLarge,
    Expired,
    InpaintError,
    JobCanceled,
    NotFound,
)
from inpaint.header import Limits
from inpaint.jobs import Problem
from inpaint.journal import Journal
from inpaint.progress import Tally
from inpaint.report import Item, note_end

from .album_client import Server, Stopped
from .album_state import Known, State

STOP_SECONDS = 5.0  # for what is just being sent


class FirstFailed(Exception):
    """A picture has failed, and no more are wanted."""


class Flow:
    """Photographs on their way to albums and back."""

    def __init__(
        self,
        client: Server,
        state: State,
        book: Journal,
        tally: Tally,
        fields: dict[str, Any],  # text, or what has one
        digest: str,
        limits: dict[str, Any],  # of GET /info
    ) -> None:
        """Begin with none.

        Args:
            client: of the server.
            state: what the folder of the results knows of albums.
            book: its journal.
            tally: is told of all that end.
            fields: of the form that makes an album.
            digest: of all that decides what a result looks like.
            limits: what the server takes.
        """
        self.albums: list[str] = []  # ids, all that were used
        self._client, self._state, self._book, self._tally = client, state, book, tally
        self._fields, self._digest = fields, digest
        self._limits = Limits(max_bytes=limits["max_file_bytes"])
        self._most = int(limits["album_files"])
        self._awaited: dict[int, tuple[Item, dict[str, Any]]] = {}  # by number: what was sent
        self._late: list[Item] = []  # for another album
        self._unsent: SimpleQueue[Item] = SimpleQueue()  # refused here
        self._failed = False
        self._lost: BaseException | None = None  # what ended the sending

    def run(self, todo: Sequence[Item], *, resume: bool, keep_going: bool) -> None:
        """Work through the items, with as many albums as they need.

        Raises:
            FirstFailed: one failed, and others are not to be gone on with.
            NotFound: the album was deleted.
            DiskFull: there is no room for a result; the album goes on.
            InpaintError: the server was away for too long, or takes none of them.
            KeyboardInterrupt: the album goes on.
        """
        found = self._found() if resume and todo else None
        rest = list(todo)
        while rest:
            id_, is_open = found or (self._made(min(len(rest), self._most)), True)
            before, fresh, found = len(rest), found is None, None
            rest = self._follow(id_, rest, is_open=is_open, keep_going=keep_going)
            if fresh and len(rest) == before:
                raise AlbumTooLarge("The server takes none of the photographs that are left.")

    def _found(self) -> tuple[str, bool] | None:
        """The id of the album to go on with, and whether it takes photographs."""
        known = self._state.known
        if known is None or (known.server, known.digest) != (self._client.url, self._digest):
            return None
        try:
            body = self._client.ask("GET", f"/albums/{known.album}").json()
            if body["counts"]["failed"] + body["counts"]["canceled"]:
                self._client.ask("POST", f"/albums/{known.album}/retry")
        except (NotFound, Expired):
            return None
        return known.album, body["status"] == "open"

    def _made(self, expect: int) -> str:
        """The id of a new album."""
        fields = {name: str(value) for name, value in {**self._fields, "expect": expect}.items()}
        files = [(name, (None, value)) for name, value in fields.items()]  # a form in any case
        body = self._client.ask("POST", "/albums", files=files).json()
        self._state.album(Known(self._client.url, body["id"], self._digest))
        return str(body["id"])

    def _follow(
        self, album: str, items: Sequence[Item], *, is_open: bool, keep_going: bool
    ) -> list[Item]:
        """Send items to an album, fetch what it has done; return those that it did not take."""
        self.albums.append(album)
        self._awaited, self._late, self._lost = {}, [], None
        unsent: list[Item] = []
        for item in items:
            number, inputs = self._state.sent.get(item.pair.name, (0, {}))
            if number and inputs == journal.of(item.pair, self._digest):
                self._awaited[number] = item, inputs
            else:
                unsent.append(item)
        if not is_open:
            self._late, unsent = unsent, []
        sender = threading.Thread(target=self._send, args=(album, unsent), daemon=True)
        sender.start()
        try:
            self._fetch(album, sender, keep_going)
        except FirstFailed:
            self._stop(sender)
            self._client.stopped.clear()
            self._client.ask("POST", f"/albums/{album}/cancel")
            raise
        except (NotFound, Expired) as error:
            self._stop(sender)
            raise NotFound(f"Album {album} is gone: somebody has deleted it.") from error
        except BaseException:
            self._stop(sender)
            raise
        return self._late

    def _stop(self, sender: threading.Thread) -> None:
        self._client.stopped.set()
        sender.join(STOP_SECONDS)

    # --- the sending thread ---------------------------------------------------------------------

    def _send(self, album: str, items: Sequence[Item]) -> None:
        """Send all, one by one, and close the album."""
        waiting = list(reversed(items))
        try:
            while waiting:
                try:
                    self._send_one(album, waiting[-1])
                except (AlbumClosed, AlbumTooLarge):
                    self._late += reversed(waiting)
                    break
                waiting.pop()
            self._client.ask("POST", f"/albums/{album}/close")
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001  # the main thread raises it
            self._lost = error

    def _send_one(self, album: str, item: Item) -> None:
        pair = item.pair
        try:
            if isinstance(pair.mask, InpaintError):
                raise pair.mask
            inputs = journal.of(pair, self._digest)
            files = {"image": (utf8(pair.name), disk.read(pair.image, self._limits, "image"))}
            if pair.mask:
                mask = disk.read(pair.mask, self._limits, "mask")
                files["mask"] = utf8(pair.mask.name), mask
            body = self._client.ask("POST", f"/albums/{album}/items", files=files).json()
        except (AlbumClosed, AlbumTooLarge, NotFound, Expired):
            raise
        except InpaintError as refusal:
            item.refusal = refusal
            self._unsent.put(item)
            return
        self._state.took(pair.name, body["number"], inputs)
        self._awaited[body["number"]] = item, inputs

    # --- the main thread ------------------------------------------------------------------------

    def _fetch(self, album: str, sender: threading.Thread, keep_going: bool) -> None:
        """Fetch what is done until the album has ended."""
        early: dict[int, dict[str, Any]] = {}  # an event may overtake the answer to its upload
        for kind, body in self._client.events(album):
            if self._lost is not None:
                raise self._lost
            if kind == "item":
                early[body["number"]] = body
            for number in [number for number in early if number in self._awaited]:
                self._take(number, early.pop(number))
            self._judge(keep_going)
        sender.join()
        if self._lost is not None:
            raise self._lost
        for number in list(self._awaited):  # whose events overtook the answers
            path = f"/albums/{album}/items/{number}"
            self._take(number, self._client.ask("GET", path).json())
        self._judge(keep_going)

    def _take(self, number: int, body: dict[str, Any]) -> None:
        """Fetch an item if it has ended."""
        if "job" in body["links"]:  # it is run again
            return
        item, inputs = self._awaited.pop(number)
        error = body["error"]
        try:
            if body["status"] == "succeeded":
                data = self._client.ask("GET", body["links"]["result"]).content
                item.write(data, _facts(body), self._book, inputs)
            elif error:
                item.refusal = Problem(code=error["code"], detail=error["detail"]).error()
            else:
                item.refusal = JobCanceled("It was canceled at the server.")
        except DiskFull:
            raise
        except InpaintError as refusal:
            item.refusal = refusal
        self._ended(item)

    def _judge(self, keep_going: bool) -> None:
        """Tell of what was not sent; raise FirstFailed if anything has failed that may not."""
        with suppress(Empty):
            while True:
                self._ended(self._unsent.get_nowait())
        if self._failed and not keep_going:
            raise FirstFailed

    def _ended(self, item: Item) -> None:
        self._failed |= item.refusal is not None
        note_end(self._tally, item)


def utf8(name: str) -> str:
    """A name as a form can hold it: file systems allow more."""
    return name.encode("utf-8", "replace").decode()


def _facts(body: dict[str, Any]) -> dict[str, Any]:
    """What the report says of an item, in the words of `Outcome`."""
    image, mask = body["image"] or {}, body["mask"] or {}
    return {
        **{name: image.get(name) for name in ("format", "mode", "width", "height")},
        "mask_source": mask.get("source"),
        "mask_mode": mask.get("mode"),
        "coverage": mask.get("coverage"),
        **{name: body[name] for name in ("model", "unchanged", "reused", "warning", "seconds")},
        "digest": body["model_digest"],
    }
