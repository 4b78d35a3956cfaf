"""`inpaint run` and `inpaint mask`: pictures on this machine, without a server.

In: picture files and folders of them. `run` fills holes: those of a mask for all, of a folder of
masks that have the pictures' names, of damage that is found, or of each picture's transparency.
`mask` finds damage and writes it down, to be looked at; `run` takes those masks. Out: results in
the same folders, and a report if one is asked for.

They go through the worker's stages, so one picture is decoded while another is searched and a
third is filled. What was interrupted or killed goes on with `--resume`: `inpaint.journal`.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from typing import Annotated, Any

import typer

from inpaint import journal
from inpaint.catalogue import Card
from inpaint.jobs import AutoMask
from inpaint.journal import Journal
from inpaint.options import (
    AUTO,
    FAILED,
    INTERRUPTED,
    SOME_FAILED,
    Conduct,
    Device,
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
    find,
    given,
)
from inpaint.pairs import Pairs, check, pair
from inpaint.settings import Settings, load

from .files import Item, Work, work_through
from .pipeline import Options
from .zoo import Zoo

DETECTOR: AutoMask = "scratches"  # of `--mask auto`


def run(
    images: Images,
    *,
    output: Output,
    mask: Mask = None,
    sensitivity: Sensitivity = None,
    model: Model = None,
    mask_grow: Grow = None,
    mask_feather: Feather = 0,
    format: Format = "same",
    quality: Quality = None,
    keep_going: KeepGoing = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    report: Report = None,
    device: Device = None,
) -> None:
    """Fill the holes of pictures, without a server.

    A mask from a folder that is empty leaves its picture as it is. Ends with status 3 if some
    failed, with 1 if it stopped at the first that did, with 130 at Ctrl-C; the report is written in
    any case.
    """
    pairs = find(images, mask, output, format, sensitivity)
    settings = load(given(model=model, device=device))
    options = Options(
        mask_grow=mask_grow,
        mask_feather=mask_feather,
        auto_mask=DETECTOR if mask == AUTO else "none",
        output_format=pairs.format,
        output_quality=quality,
        **given(auto_mask_sensitivity=sensitivity),
    )
    conduct = Conduct(keep_going=keep_going, overwrite=overwrite, resume=resume, report=report)
    go(pairs, options, settings, conduct)


def propose(
    images: Images,
    *,
    output: Output,
    detector: Annotated[AutoMask, typer.Option(help="What finds the damage.")] = DETECTOR,
    sensitivity: Sensitivity = None,
    mask_grow: Grow = None,
    keep_going: KeepGoing = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    report: Report = None,
    device: Device = None,
) -> None:
    """Write masks of the damage in pictures, white = damage, as `inpaint run --mask` takes them.

    They are PNG of 8-bit gray, with the pictures' names. Ends as `inpaint run`.
    """
    pairs = pair(images, None, output, "png")
    options = Options(
        mask_grow=mask_grow,
        auto_mask=detector,
        mask_only=True,
        **given(auto_mask_sensitivity=sensitivity),
    )
    conduct = Conduct(keep_going=keep_going, overwrite=overwrite, resume=resume, report=report)
    go(pairs, options, load(given(device=device)), conduct)


def go(pairs: Pairs, options: Options, settings: Settings, conduct: Conduct) -> None:
    """Work through the pairs, write the report, and end with the status that says how it went."""
    book = _book(pairs, conduct)
    with closing(book) if book else nullcontext():
        began = time.monotonic()
        models: tuple[str, ...] = () if options.mask_only else (settings.model,)
        models += () if options.auto_mask == "none" else (options.auto_mask,)
        zoo = Zoo.load(settings.model_copy(update={"models": models}))
        cards = {**zoo.cards, **zoo.detector_cards}
        digests = {name: card.digest for name, card in cards.items()}
        digest = journal.digest({"models": digests, **asdict(options)})
        work = Work(zoo, models[0], options, digest, settings.limits, pairs.by_name, book)
        items = [Item(each) for each in pairs.all]
        if book is not None and conduct.resume:
            for item in items:
                if (facts := book.find(item.pair, digest)) is not None:
                    item.done, item.kept = {"output": str(item.pair.output), **facts}, True
        interrupted = False
        try:
            todo = [item for item in items if not item.kept]
            work_through(todo, work, settings, keep_going=conduct.keep_going)
        except KeyboardInterrupt:
            interrupted = True
    seconds = time.monotonic() - began
    summary = _summary(items, zoo, cards, seconds)
    typer.echo(_line(items, summary, "searched" if options.mask_only else "restored"))
    if conduct.report is not None:
        facts = {**summary, "images": [item.report() for item in items]}
        journal.write(conduct.report, (json.dumps(facts, indent=2) + "\n").encode())
    if interrupted:
        if book is not None:
            typer.echo("Interrupted; the same command with --resume goes on.", err=True)
        raise typer.Exit(INTERRUPTED)
    if summary["failed"]:
        raise typer.Exit(SOME_FAILED if conduct.keep_going else FAILED)


def _book(pairs: Pairs, conduct: Conduct) -> Journal | None:
    """Refuse what would be written over, and begin the journal of the folder of the results."""
    if pairs.others:
        typer.echo(f"Left out, as their names are no pictures': {_counts(pairs.others)}", err=True)
    if pairs.folder is None:
        if conduct.resume:
            raise typer.BadParameter("It is for results in a folder.", param_hint="--resume")
        check(pairs.all, conduct.report, overwrite=conduct.overwrite)
        return None
    book = Journal(pairs.folder)
    ours = set()
    if conduct.resume:
        ours = {each.output for each in pairs.all if book.whole(each)}
        if conduct.report is not None:
            ours.add(conduct.report)
    check(pairs.all, conduct.report, overwrite=conduct.overwrite, ours=ours)
    book.begin()
    return book


def _counts(others: Counter[str]) -> str:
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))


def _summary(
    items: Sequence[Item], zoo: Zoo, cards: Mapping[str, Card], seconds: float
) -> dict[str, Any]:
    """Return the report's facts about the whole run."""
    done = [item.done for item in items if item.done]
    failed = sum(item.refusal is not None for item in items)
    return {
        "model": "+".join(cards),
        "digest": "+".join(card.digest for card in cards.values() if card.digest) or None,
        "device": zoo.device,
        "engine": zoo.engine,
        "precision": zoo.precision,
        "seconds": round(seconds, 3),
        "megapixels": round(sum(facts["width"] * facts["height"] for facts in done) / 1e6, 3),
        "windows": sum(facts["windows"] for facts in done),
        "succeeded": len(done),
        "unchanged": sum(facts["unchanged"] for facts in done),
        "kept": sum(item.kept for item in items),
        "failed": failed,
        "not_run": len(items) - len(done) - failed,
    }


def _line(items: Sequence[Item], summary: Mapping[str, Any], verb: str) -> str:
    """Say the summary in a line."""
    text = (
        f"{summary['succeeded']} of {len(items)} pictures {verb} in {summary['seconds']:.1f} s "
        f"with {summary['model']} ({summary['device']}, {summary['engine']}, "
        f"{summary['precision']}): {summary['megapixels']:.1f} megapixels, "
        f"{summary['windows']} windows; {summary['failed']} failed"
    )
    parts = {"kept": "done by earlier runs", "unchanged": "without damage", "not_run": "not begun"}
    return text + "".join(f", {summary[key]} {word}" for key, word in parts.items() if summary[key])
