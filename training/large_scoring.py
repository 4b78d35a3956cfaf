"""`inpaint eval large`: fills scored at native size; a table, JSON, a sheet.

In: photographs of a megapixel and more, models, refinements. Out: what `large` measured, printed,
and as JSON and PNG where that is asked for.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar, get_args

import torch
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from inpaint.errors import ImageTooSmall
from inpaint.patches import Refinement
from inpaint.settings import Settings

from . import large, lpips, plots
from .evaluate import Pixels, Scores, open_models, read_each
from .large import CELL
from .options import Device, Threads, make_folder, writing
from .repair_scoring import reduced

SMALLEST = 1_000_000  # pixels of a photograph
DIGITS = {"psnr": 2, "seconds": 2}  # of the others 4
HEADINGS = {"lpips_alex": "lpips\nalex", "seconds": "CPU\nseconds"}

REFINEMENTS: tuple[Refinement, ...] = get_args(Refinement)
Name = TypeVar("Name", bound=str)


def _among(names: list[str] | None, known: Sequence[Name]) -> list[Name]:
    """Return the names in the order of those known; all, where none is named."""
    for name in names or []:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}.")
    return [name for name in known if not names or name in names]


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Paths of checkpoints, or names of shipped ones; the default.", metavar="MODEL..."
        ),
    ] = None,
    *,
    data: Annotated[Path, typer.Option(help="Folder of photographs kept out of training.")],
    refine: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Fills of learned models: {', '.join(REFINEMENTS)}; repeatable; by default all.",
            metavar="REFINEMENT",
            callback=lambda names: _among(names, REFINEMENTS),
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Of holes: {', '.join(large.KINDS)}; repeatable; by default all.",
            metavar="KIND",
            callback=lambda names: _among(names, list(large.KINDS)),
        ),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Folder of feature networks; see docs/training.md.")
    ] = None,
    to_json: Annotated[
        Path | None, typer.Option("--json", help="Write the scores here.", dir_okay=False)
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a PNG of details here.", dir_okay=False)
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Scale down longer sides to it, pixels.", min=CELL),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many photographs.", min=1)] = None,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Score fills of thin and wide holes in large photographs, at native size."""
    for path in (to_json, sheet):
        if path is not None:  # now, and not when everything is scored
            make_folder(path.parent)
    torch.set_num_threads(threads or torch.get_num_threads())
    console = Console(highlight=False, soft_wrap=True)
    fillers = open_models(models or [Settings().model], device)
    ways = large.ways(fillers, _among(refine, REFINEMENTS))
    kinds = _among(kind, list(large.KINDS))
    distances = {name: lpips.load(name, features) for name in lpips.FILES if features}
    photos = read_each(data, lambda pixels: taken(pixels, size), limit)
    columns = (TextColumn("filling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        task = bar.add_task("", total=len(photos.squares) * len(kinds))
        scores = large.measure(
            photos.squares, kinds, ways, distances, progress=lambda: bar.advance(task)
        )
    megapixels = sum(each[..., 0].size for each in photos.squares.values()) / 1e6
    console.print(f"{len(photos.squares)} photographs, {megapixels:.1f} megapixels together")
    console.print(table(scores), soft_wrap=False)
    if to_json:
        with writing(to_json):
            to_json.write_text(json.dumps(scores, indent=1) + "\n")
    if sheet:
        first = next(iter(fillers.values()))
        shown = {name: way for name, way in ways.items() if way[0] is first}
        titles = ["masked", *shown, "photograph"]
        with writing(sheet):
            plots.grid(list(large.examples(photos.squares, kinds, shown)), sheet, titles=titles)
        console.print(f"{' | '.join(titles)}: {sheet}", markup=False)
    for photo, reason in photos.skipped.items():
        console.print(f"skipped {photo}: {reason}", markup=False)


def taken(pixels: Pixels, size: int | None) -> Pixels:
    """Return a photograph (H,W,3), scaled down where its long side is beyond `size` pixels.

    Raises:
        ImageTooSmall: if less than a megapixel is left, or a side is below 384 pixels.
    """
    if size is not None:
        pixels = reduced(pixels, size)
    height, width = pixels.shape[:2]
    if height * width < SMALLEST or min(height, width) < CELL:
        raise ImageTooSmall(f"{width}x{height} pixels; a megapixel and sides of {CELL} are needed")
    return pixels


def table(scores: Scores) -> Table:
    """Return the scores to be printed, ways below kinds of holes."""
    first = next(iter(scores.values()))  # all ways have the same kinds and scores
    names = [name for name in next(iter(first.values())) if name != "n"]
    shown = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    shown.caption = "of squares around the holes; psnr and ssim: more is better"
    if "lpips" not in names:
        shown.caption += "\nlpips: not measured, for want of --features"
    shown.add_column("filled by", overflow="fold", min_width=15)
    for name in names:
        shown.add_column(HEADINGS.get(name, name), justify="right", no_wrap=True)
    for kind in first:
        shown.add_row(f"[dim]{kind}[/dim]")
        for way, kinds in scores.items():
            shown.add_row(way, *(f"{kinds[kind][name]:.{DIGITS.get(name, 4)}f}" for name in names))
        shown.add_section()
    return shown
