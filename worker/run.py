"""`inpaint run` and `inpaint mask`: pictures on this machine, without a server.

In: picture files and folders of them. `run` fills holes: those of a mask for all, of a folder of
masks that have the pictures' names, of damage that is found, or of each picture's transparency.
`mask` finds damage and writes it down, to be looked at; `run` takes those masks. Out: results in
the same folders, and a report if one is asked for.

They go through the worker's stages, so one picture is decoded while another is searched and a
third is filled. What was interrupted or killed goes on with `--resume`: `inpaint.journal`.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from inpaint import journal
from inpaint.catalogue import Card
from inpaint.disk import DiskFull
from inpaint.options import (
    AUTO,
    FAILED,
    INTERRUPTED,
    MOST_GROWN,
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
    Refine,
    Report,
    Resume,
    Sensitivity,
    Tone,
    find,
    given,
    tones,
)
from inpaint.pairs import Pairs, pair
from inpaint.report import Item, begin, finish
from inpaint.settings import Settings, load

from .files import Work, work_through
from .pipeline import Options
from .zoo import Zoo

DETECTOR: Literal["scratches"] = "scratches"  # of `--mask auto`


def run(
    images: Images,
    *,
    output: Output,
    mask: Mask = None,
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
    report: Report = None,
    device: Device = None,
) -> None:
    """Fill the holes of pictures, without a server.

    Of results in a folder, an empty mask leaves its picture as it is. Ends with status 3 if some
    failed, with 1 if it stopped at the first that did, with 130 at Ctrl-C; the report is written in
    any case.
    """
    pairs = find(images, mask, output, format, sensitivity)
    settings = load(given(model=model, device=device))
    options = Options(
        mask_grow=mask_grow,
        mask_feather=mask_feather,
        refine=refine,
        tone=tones(tone),
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
    detector: Annotated[
        Literal["scratches"], typer.Option(help="What finds the damage.")
    ] = DETECTOR,
    sensitivity: Sensitivity = None,
    mask_grow: Annotated[
        int, typer.Option(help="Widen the mask, pixels.", min=0, max=MOST_GROWN)
    ] = 0,
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
    book = journal.start(pairs, conduct)
    with closing(book) if book else nullcontext():
        began = time.monotonic()
        models: tuple[str, ...] = () if options.mask_only else (settings.model,)
        models += () if options.auto_mask == "none" else (options.auto_mask,)
        zoo = Zoo.load(settings.model_copy(update={"models": models}))
        cards = {**zoo.cards, **zoo.detector_cards}
        digests = {name: card.digest for name, card in cards.items()}
        digest = journal.digest({"models": digests, **asdict(options)})
        work = Work(zoo, models[0], options, digest, settings.limits, book)
        items = begin(pairs, book, digest, resume=conduct.resume)
        stopped, status = None, INTERRUPTED
        go_on = " The same command with --resume goes on." if book else ""
        try:
            todo = [item for item in items if not item.kept]
            work_through(todo, work, settings, keep_going=conduct.keep_going)
        except KeyboardInterrupt:
            stopped = "Interrupted." + go_on
        except DiskFull as error:
            stopped, status = f"{error.detail} ({error.code}){go_on}", FAILED
    about = _about(items, zoo, cards, time.monotonic() - began)
    how = (
        f"in {about['seconds']:.1f} s with {about['model']} ({zoo.device}, {zoo.engine}, "
        f"{zoo.precision}): {about['megapixels']:.1f} megapixels"
    )
    how += "" if options.mask_only else f", {about['windows']} windows"
    verb = "searched" if options.mask_only else "restored"
    finish(items, about, verb, how, conduct, stopped=stopped, status=status)


def _about(
    items: Sequence[Item], zoo: Zoo, cards: Mapping[str, Card], seconds: float
) -> dict[str, Any]:
    """Return the report's facts about the whole run."""
    done = [item.done for item in items if item.done]
    return {
        "model": "+".join(cards),
        "digest": "+".join(card.digest for card in cards.values() if card.digest) or None,
        "device": zoo.device,
        "engine": zoo.engine,
        "precision": zoo.precision,
        "seconds": round(seconds, 3),
        "megapixels": round(sum(facts["width"] * facts["height"] for facts in done) / 1e6, 3),
        "windows": sum(facts["windows"] for facts in done),
    }
