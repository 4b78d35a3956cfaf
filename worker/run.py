"""`inpaint run`: fill the holes of pictures on this machine, without a server.

In: picture files, and a mask for all, a folder of masks that have their names, or none: then each
picture's own transparency. Out: the pictures restored, and a report if one is asked for. They go
through the worker's stages, so the next one is decoded while one is filled.
"""

import errno
import json
import logging
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from inpaint.errors import (
    FileTooLarge,
    ImageUnreadable,
    InpaintError,
    Internal,
    MaskUnreadable,
    OutOfMemory,
    StorageUnavailable,
)
from inpaint.header import Limits, check_quality, probe
from inpaint.highres import Pixels
from inpaint.picture import OutputFormat
from inpaint.restore import Plan
from inpaint.settings import Settings, load
from models.filler import out_of_memory

from .batching import Batching
from .pairs import Pair, check, pair
from .pipeline import Opened, Options, close_picture, open_picture
from .zoo import Zoo

MOST_GROWN = 128  # pixels, as through HTTP
SOME_FAILED = 3  # exit code

log = logging.getLogger("inpaint.worker")


class Stopped(Exception):
    """Another picture has failed, and none is to be worked on any more."""


@dataclass(eq=False)
class Item:
    """A picture of this run and how it has ended: done, refused, or not begun."""

    pair: Pair
    done: dict[str, Any] = field(default_factory=dict)  # facts, in the words of the report
    refusal: InpaintError | None = None

    def report(self) -> dict[str, Any]:
        """What is said of it in the report."""
        status = "failed" if self.refusal else "succeeded" if self.done else "not-run"
        found: dict[str, Any] = {"image": str(self.pair.image), "status": status}
        if isinstance(self.pair.mask, Path):
            found["mask"] = str(self.pair.mask)
        if self.refusal:
            found["problem"] = {"code": self.refusal.code, "detail": self.refusal.detail}
        return found | self.done


@dataclass(frozen=True)
class Work:
    """What the pictures of one run share."""

    zoo: Zoo
    model: str
    options: Options
    limits: Limits
    ended: SimpleQueue[Item] = field(default_factory=SimpleQueue)
    stopped: threading.Event = field(default_factory=threading.Event)


class FileTask:
    """A picture of this run as the stages see it."""

    urgent = False
    alone = False

    def __init__(self, item: Item, work: Work) -> None:
        self.model = work.model
        self._item, self._work = item, work
        self._files: tuple[bytes, bytes | None] = b"", None
        self._opened: Opened | None = None

    def check(self) -> None:
        """Raise Stopped."""
        if self._work.stopped.is_set():
            raise Stopped

    def fetch(self) -> int:
        """Read the files; return the pixels of the picture."""
        pair, limits = self._item.pair, self._work.limits
        if isinstance(pair.mask, InpaintError):
            raise pair.mask
        image = _read(pair.image, limits, "image")
        self._files = image, _read(pair.mask, limits, "mask") if pair.mask else None
        header = probe(image, limits)
        check_quality(header, self._work.options.output_format, self._work.options.output_quality)
        return header.width * header.height

    def open(self) -> Plan:
        """Decode and plan."""
        image, mask = self._files
        self._files = b"", None
        work, rule = self._work, self._work.zoo.filler(self.model).rule
        self._opened = open_picture(image, mask, work.options, rule, work.limits)
        return self._opened.plan

    def close(self, pixels: Pixels, *, infer: float, lay: float) -> None:
        """Encode and write the result."""
        opened, self._opened = self._opened, None
        assert opened is not None
        done = close_picture(opened, pixels, self._work.options, infer=infer, lay=lay)
        del opened, pixels
        _write(self._item.pair.output, done.data)
        facts = {name: value for name, value in vars(done).items() if name != "data"}
        self._item.done = {"output": str(self._item.pair.output), **facts}

    def end(self, error: Exception | None) -> None:
        """Hand on how it has ended."""
        self._opened = None
        if error is not None and not isinstance(error, Stopped):
            self._item.refusal = _refusal(error)
        self._work.ended.put(self._item)


def run(
    images: Annotated[list[Path], typer.Argument(help="Pictures.", metavar="IMAGE...")],
    *,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for the results; or a file, of one picture."),
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            help="A mask for all pictures, white = hole, or a folder of masks with their names. "
            "By default each picture's own transparency.",
            metavar="FILE|FOLDER",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model; by default the service's.")] = None,
    mask_grow: Annotated[
        int, typer.Option(help="Widen the hole, pixels.", min=0, max=MOST_GROWN)
    ] = 0,
    mask_feather: Annotated[
        int, typer.Option(help="Blend its outermost pixels, pixels.", min=0, max=MOST_GROWN)
    ] = 0,
    format: Annotated[OutputFormat, typer.Option(help="Of the results.")] = "same",
    quality: Annotated[
        int | None, typer.Option(help="Of JPEG and WebP; by default as before.", min=1, max=100)
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Go on after a picture that fails.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that are there.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write what was done here, as JSON.", dir_okay=False)
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, typer.Option(help="By default the setting.")
    ] = None,
) -> None:
    """Fill the holes of pictures, without a server.

    Ends with status 3 if some failed, with 1 if it stopped at the first that did.
    """
    pairs, format = pair(images, mask, output, format)
    given = {"model": model, "device": device}
    settings = load({name: value for name, value in given.items() if value is not None})
    settings = settings.model_copy(update={"models": (settings.model,)})
    check(pairs, report, overwrite=overwrite)
    options = Options(
        mask_mode="auto",
        mask_fit="exact",
        mask_grow=mask_grow,
        mask_feather=mask_feather,
        output_format=format,
        output_quality=quality,
    )
    began = time.monotonic()
    work = Work(Zoo.load(settings), settings.model, options, settings.limits)
    items = [Item(each) for each in pairs]
    _restore(items, work, settings, keep_going=keep_going)
    failed = sum(item.refusal is not None for item in items)
    summary = _summary(items, work.zoo, time.monotonic() - began)
    typer.echo(summary.pop("text"))
    if report is not None:
        facts = {**summary, "images": [item.report() for item in items]}
        _write(report, (json.dumps(facts, indent=2) + "\n").encode())
    if failed:
        raise typer.Exit(SOME_FAILED if keep_going else 1)


def _restore(items: Sequence[Item], work: Work, settings: Settings, *, keep_going: bool) -> None:
    """Take the items through the stages, and tell of each that fails."""
    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
    stages = Batching(
        work.zoo.fillers,
        batch_seconds=settings.batch_seconds,
        most_pixels=settings.max_pixels,
    )
    shown = Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )
    with closing(stages), shown as progress:
        bar = progress.add_task("", total=len(items))

        def note(item: Item) -> None:
            progress.update(bar, advance=1, description=item.pair.image.name)
            if item.refusal is not None:
                text = f"{item.pair.image}: {item.refusal.detail} ({item.refusal.code})"
                console.print(text, markup=False, highlight=False, soft_wrap=True)
                if not keep_going:
                    work.stopped.set()

        _feed(items, work, stages, note)


def _feed(
    items: Sequence[Item], work: Work, stages: Batching, note: Callable[[Item], None]
) -> None:
    """Give the stages as many as they have room for; `note` each that has ended."""
    waiting, under_way = list(reversed(items)), 0
    while under_way or (waiting and not work.stopped.is_set()):
        while waiting and not work.stopped.is_set() and stages.room(0):
            stages.put(FileTask(waiting.pop(), work))
            under_way += 1
        try:
            note(work.ended.get(timeout=1))
            under_way -= 1
        except Empty:
            if math.isinf(stages.stalled()):
                raise RuntimeError("a thread of the stages has died") from None


def _summary(items: Sequence[Item], zoo: Zoo, seconds: float) -> dict[str, Any]:
    """Return the report's facts about the whole run, and `text`, the line that says them."""
    (name, card), done = next(iter(zoo.cards.items())), [item.done for item in items if item.done]
    failed = sum(item.refusal is not None for item in items)
    windows = sum(facts["windows"] for facts in done)
    pixels = sum(facts["width"] * facts["height"] for facts in done)
    text = (
        f"{len(done)} of {len(items)} pictures restored in {seconds:.1f} s with {name} "
        f"({zoo.device}, {zoo.engine}, {zoo.precision}): {pixels / 1e6:.1f} megapixels, "
        f"{windows} windows; {failed} failed"
    )
    return {
        "text": text,
        "model": name,
        "digest": card.digest,
        "device": zoo.device,
        "engine": zoo.engine,
        "precision": zoo.precision,
        "seconds": round(seconds, 3),
        "succeeded": len(done),
        "failed": failed,
        "not_run": len(items) - len(done) - failed,
    }


def _read(path: Path, limits: Limits, field: Literal["image", "mask"]) -> bytes:
    """Read a file, unless its size alone says that it is not accepted."""
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


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".inpaint-{os.getpid()}-{threading.get_ident()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise StorageUnavailable(f"{path} cannot be written: {error.strerror}.") from error


def _refusal(error: Exception) -> InpaintError:
    if out_of_memory(error):
        return OutOfMemory("The picture did not fit into memory.")
    if isinstance(error, InpaintError):
        return error
    log.error("a bug of ours", exc_info=error)
    return Internal(f"{type(error).__name__}: {error}")
