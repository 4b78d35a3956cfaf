"""`inpaint album`: folders of photographs through the service, and the results back.

In: pictures and folders of them, masks as `inpaint run` takes them, a server. Out: results in the
same folders, and a report. One thread sends photographs one by one, each with its mask, while the
main one hears which are done and fetches them. What was sent and fetched is written down as it
happens (`album_state`, `inpaint.journal`), so that a client that was killed goes on with `--resume`
where it was; the album itself goes on without a client.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from queue import Empty, SimpleQueue
from typing import Annotated, Any

import typer

from inpaint import disk, journal
from inpaint.errors import (
    AlbumClosed,
    AlbumTooLarge,
    Expired,
    InpaintError,
    JobCanceled,
    MaskEmpty,
    NotFound,
    StartFailed,
)
from inpaint.header import Limits
from inpaint.jobs import Problem
from inpaint.journal import Journal
from inpaint.options import (
    AUTO,
    FAILED,
    INTERRUPTED,
    Conduct,
    Feather,
    Format,
    Grow,
    Images,
    KeepGoing,
    Mask,
    Model,
    Output,
    Overwrite,
    Quality,
    Report,
    Resume,
    Sensitivity,
    Tone,
    find,
    given,
    tones,
)
from inpaint.progress import Tally
from inpaint.report import Item, begin, finish, note_end
from inpaint.settings import load
from inpaint.unmarked import unmarked

from .album_client import Server, Stopped
from .album_state import Known, State

MOST_NAME = 200  # characters, of an album
STOP_SECONDS = 5.0  # for what is just being sent


def album(
    images: Images,
    *,
    output: Output,
    server: Annotated[
        str | None, typer.Option(help="URL; by default INPAINT_HOST and INPAINT_PORT.")
    ] = None,
    mask: Mask = None,
    mask_only: Annotated[
        bool, typer.Option("--mask-only", help="Fetch masks of the damage, and fill nothing.")
    ] = False,
    sensitivity: Sensitivity = None,
    model: Model = None,
    mask_grow: Grow = None,
    mask_feather: Feather = 0,
    tone: Tone = "",
    format: Format = "same",
    quality: Quality = None,
    keep_going: KeepGoing = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="End the album that an earlier command has begun.")
    ] = False,
    report: Report = None,
) -> None:
    """Restore folders of pictures through a server.

    Ends as `inpaint run`; at Ctrl-C the album goes on, and --resume fetches what is done.
    """
    if mask_only and mask not in (None, AUTO):
        raise typer.BadParameter("It finds masks, and takes none.", param_hint="--mask-only")
    if mask_only and (format != "same" or quality is not None or tone):
        raise typer.BadParameter("It writes masks, which are PNG.", param_hint="--mask-only")
    mask = AUTO if mask_only else mask
    pairs = find(images, mask, output, "png" if mask_only else format, sensitivity)
    if pairs.folder is None:
        raise typer.BadParameter(f"{output} is one file: name a folder.", param_hint="--output")
    state = State(pairs.folder)
    settings = load()
    url = server or f"http://{settings.host}:{settings.port}"
    if server is None and state.known is not None and (resume or cancel):
        url = state.known.server
    tally = Tally(len(pairs.all))
    with closing(Server(url, tally.say)) as client:
        if cancel:
            _cancel(client, state)
            return
        fields = given(
            name=_utf8(images[0].resolve().name[:MOST_NAME]),
            model=model,
            mask_grow=mask_grow,
            mask_feather=mask_feather or None,
            tone=",".join(tones(tone)) or None,
            auto_mask="scratches" if mask == AUTO else None,
            auto_mask_sensitivity=sensitivity,
            mask_only="true" if mask_only else None,
            output_format=None if mask_only or format == "same" else format,
            output_quality=quality,
        )
        conduct = Conduct(keep_going=keep_going, overwrite=overwrite, resume=resume, report=report)
        info = client.info()
        needed = {model or info["default_model"], fields.get("auto_mask")}
        held = [*info["models"], *info["detectors"]]
        digests = [(each["name"], each["digest"]) for each in held if each["name"] in needed]
        digest = journal.digest({"fields": fields, "models": digests})
        book = journal.start(pairs, conduct)
        assert book is not None
        with closing(book):
            items = begin(pairs, book, digest, resume=resume)
            todo = [item for item in items if not item.kept]
            tally.total(len(todo))
            flow = Flow(client, state, book, tally, fields, digest, info["limits"], pairs.by_name)
            began, stopped = time.monotonic(), None
            try:
                with tally:
                    flow.run(todo, resume=resume, keep_going=keep_going)
            except KeyboardInterrupt:
                stopped = INTERRUPTED, _going_on(state)
            except FirstFailed:
                stopped = FAILED, "Stopped at the first that failed; the album is canceled."
            except InpaintError as error:
                stopped = FAILED, f"{error.detail} ({error.code}) --resume goes on."
    seconds = round(time.monotonic() - began, 3)
    about = {"server": client.url, "albums": flow.albums, "seconds": seconds}
    status, text = stopped or (INTERRUPTED, None)
    how = f"in {seconds:.1f} s by {client.url}"
    verb = "searched" if mask_only else "restored"
    finish(items, about, verb, how, conduct, stopped=text, status=status)


def _cancel(client: Server, state: State) -> None:
    if state.known is None:
        raise StartFailed("No album was begun into this folder.")
    counts = client.ask("POST", f"/albums/{state.known.album}/cancel").json()["counts"]
    typer.echo(f"Album {state.known.album}: " + ", ".join(f"{n} {of}" for of, n in counts.items()))


def _going_on(state: State) -> str:
    if state.known is None:
        return "Interrupted before an album was begun."
    return (
        f"Interrupted; album {state.known.album} goes on at {state.known.server}. The same command "
        "with --resume sends what is missing and fetches what is done, with --cancel ends it."
    )


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
        by_name: bool,
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
            by_name: whether an empty mask says that nothing is to be done.
        """
        self.albums: list[str] = []  # ids, all that were used
        self._client, self._state, self._book, self._tally = client, state, book, tally
        self._fields, self._digest = fields, digest
        self._blank = by_name and "tone" not in fields  # tones are the server's affair
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
        except (NotFound, Expired):  # somebody has deleted it
            self._stop(sender)
            self._client.stopped.clear()
            return [item for item in items if not item.done and not item.refusal]
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
            files = {"image": (_utf8(pair.name), disk.read(pair.image, self._limits, "image"))}
            if pair.mask:
                mask = disk.read(pair.mask, self._limits, "mask")
                files["mask"] = _utf8(pair.mask.name), mask
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
            elif error and error["code"] == MaskEmpty.code and self._blank:
                data = disk.read(item.pair.image, self._limits, "image")
                wanted = self._fields.get("output_format", "same")
                quality = self._fields.get("output_quality")
                item.write(*unmarked(data, self._limits, wanted, quality), self._book, inputs)
            elif error:
                item.refusal = Problem(code=error["code"], detail=error["detail"]).error()
            else:
                item.refusal = JobCanceled("It was canceled at the server.")
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


def _utf8(name: str) -> str:
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
