"""`inpaint album`: folders of photographs through the service, and the results back.

In: pictures and folders of them, masks as `inpaint run` takes them, a server. Out: results in the
same folders, and a report. What was sent and fetched is written down as it happens (`album_state`,
`inpaint.journal`), so that a client that was killed goes on with `--resume` where it was; the album
itself goes on without a client.
"""

import time
from contextlib import closing
from typing import Annotated

import typer

from inpaint import journal
from inpaint.errors import InpaintError, StartFailed
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
    Refine,
    Report,
    Resume,
    Sensitivity,
    Tone,
    find,
    given,
    tones,
)
from inpaint.progress import Tally
from inpaint.report import begin, finish
from inpaint.settings import load

from .album_client import Server
from .album_flow import FirstFailed, Flow, utf8
from .album_state import State

MOST_NAME = 200  # characters, of an album


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
    refine: Refine = "auto",
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
    if mask_only and (format != "same" or quality is not None or tone or refine != "auto"):
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
            name=utf8(images[0].resolve().name[:MOST_NAME]),
            model=model,
            mask_grow=mask_grow,
            mask_feather=mask_feather or None,
            refine=None if refine == "auto" else refine,
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
            flow = Flow(client, state, book, tally, fields, digest, info["limits"])
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
