"""`inpaint run`: fill the holes of pictures on this machine, without a server.

In: picture files and folders of them, and a mask for all, a folder of masks that have their names,
or none: then each picture's own transparency. Out: the pictures restored, in the same folders, and
a report if one is asked for. They go through the worker's stages, so the next one is decoded while
one is filled. A run that was interrupted or killed is gone on with by `--resume`.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from inpaint import journal
from inpaint.journal import Journal
from inpaint.pairs import IMAGES, Pairs, check, pair
from inpaint.picture import OutputFormat
from inpaint.settings import Settings, load

from .files import Item, Work, work_through
from .pipeline import Options
from .zoo import Zoo

MOST_GROWN = 128  # pixels, as through HTTP
FAILED, SOME_FAILED, INTERRUPTED = 1, 3, 130  # exit codes


def run(
    images: Annotated[
        list[Path], typer.Argument(help="Pictures, and folders of them.", metavar=IMAGES)
    ],
    *,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for the results; or a file, of one picture."),
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            help="A mask for all pictures, white = hole, or a folder of masks with their names, in "
            "the same folders. By default each picture's own transparency.",
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
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out what an earlier run has done.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write what was done here, as JSON.", dir_okay=False)
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, typer.Option(help="By default the setting.")
    ] = None,
) -> None:
    """Fill the holes of pictures, without a server.

    Ends with status 3 if some failed, with 1 if it stopped at the first that did, with 130 at
    Ctrl-C; the report is written in any case.
    """
    pairs = pair(images, mask, output, format)
    given = {"model": model, "device": device}
    settings = load({name: value for name, value in given.items() if value is not None})
    options = Options(
        mask_mode="auto",
        mask_fit="exact",
        mask_grow=mask_grow,
        mask_feather=mask_feather,
        output_format=pairs.format,
        output_quality=quality,
    )
    restore(
        pairs,
        options,
        settings,
        report=report,
        keep_going=keep_going,
        overwrite=overwrite,
        resume=resume,
    )


def restore(
    pairs: Pairs,
    options: Options,
    settings: Settings,
    *,
    report: Path | None,
    keep_going: bool,
    overwrite: bool,
    resume: bool,
) -> None:
    """Work through the pairs, write the report, and end with the status that says how it went."""
    book = _book(pairs, report, overwrite=overwrite, resume=resume)
    settings = settings.model_copy(update={"models": (settings.model,)})
    with closing(book) if book else nullcontext():
        began = time.monotonic()
        zoo = Zoo.load(settings)
        digests = {name: card.digest for name, card in zoo.cards.items()}
        digest = journal.digest({"models": digests, **asdict(options)})
        work = Work(zoo, settings.model, options, digest, settings.limits, book)
        items = [Item(each) for each in pairs.all]
        if book is not None and resume:
            for item in items:
                if (facts := book.find(item.pair, digest)) is not None:
                    item.done, item.kept = {"output": str(item.pair.output), **facts}, True
        interrupted = False
        try:
            todo = [item for item in items if not item.kept]
            work_through(todo, work, settings, keep_going=keep_going)
        except KeyboardInterrupt:
            interrupted = True
    summary = _summary(items, zoo, time.monotonic() - began)
    typer.echo(summary.pop("text"))
    if report is not None:
        facts = {**summary, "images": [item.report() for item in items]}
        journal.write(report, (json.dumps(facts, indent=2) + "\n").encode())
    if interrupted:
        if book is not None:
            typer.echo("Interrupted; the same command with --resume goes on.", err=True)
        raise typer.Exit(INTERRUPTED)
    if summary["failed"]:
        raise typer.Exit(SOME_FAILED if keep_going else FAILED)


def _book(pairs: Pairs, report: Path | None, *, overwrite: bool, resume: bool) -> Journal | None:
    """Refuse what would be written over, and begin the journal of the folder of the results."""
    if pairs.others:
        typer.echo(f"Left out, for their names are no pictures': {_counts(pairs.others)}", err=True)
    if pairs.folder is None:
        if resume:
            raise typer.BadParameter("--resume is for results in a folder.", param_hint="--resume")
        check(pairs.all, report, overwrite=overwrite)
        return None
    book = Journal(pairs.folder)
    ours = {each.output for each in pairs.all if book.whole(each)} if resume else set()
    if resume and report is not None:
        ours.add(report)
    check(pairs.all, report, overwrite=overwrite, ours=ours)
    book.begin()
    return book


def _counts(others: Counter[str]) -> str:
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))


def _summary(items: Sequence[Item], zoo: Zoo, seconds: float) -> dict[str, Any]:
    """Return the report's facts about the whole run, and `text`, the line that says them."""
    (name, card), done = next(iter(zoo.cards.items())), [item.done for item in items if item.done]
    kept = sum(item.kept for item in items)
    failed = sum(item.refusal is not None for item in items)
    left = len(items) - len(done) - failed
    windows = sum(facts["windows"] for facts in done)
    pixels = sum(facts["width"] * facts["height"] for facts in done)
    text = (
        f"{len(done)} of {len(items)} pictures restored in {seconds:.1f} s with {name} "
        f"({zoo.device}, {zoo.engine}, {zoo.precision}): {pixels / 1e6:.1f} megapixels, "
        f"{windows} windows; {failed} failed"
    )
    text += f", {left} not done" if left else ""
    text += f"; {kept} of them by earlier runs" if kept else ""
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
        "kept": kept,
        "not_run": left,
    }
