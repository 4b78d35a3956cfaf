"""`inpaint eval`: models scored side by side; a table, files of scores, pictures, a user study.

In: names of models, folders of photographs and masks. Out: what `evaluate` found, printed, and as
JSON, CSV, PNG and HTML where that is asked for.
"""

import csv
import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from inpaint.errors import BadData
from inpaint.patches import Refine

from . import evaluate as protocol
from . import frechet, lpips, plots, study
from .evaluate import MEANS, Photographs, Scores
from .options import Device, Threads, make_folder, writing

MORE_IS_BETTER = ("psnr", "ssim")
NARROWEST = 69  # characters of the table; rich would leave out the models' names to make it fit
WIDER = 11  # characters more for each Fréchet distance


def _networks(names: list[str] | None) -> list[str]:
    for name in names or []:
        if name not in frechet.NETWORKS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(frechet.NETWORKS)}.")
    return list(dict.fromkeys(names or []))


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Paths of checkpoints, or names of shipped ones.", metavar="MODEL..."),
    ] = None,
    *,
    data: Annotated[Path, typer.Option(help="Folder of photographs kept out of training.")],
    masks: Annotated[Path, typer.Option(help="Folder of mask files, white = hole.")],
    features: Annotated[
        Path | None, typer.Option(help="Folder of feature networks; see docs/training.md.")
    ] = None,
    networks: Annotated[
        list[str] | None,
        typer.Option(
            "--frechet",
            help=f"Fréchet distance over {', '.join(frechet.NETWORKS)}; repeatable.",
            metavar="NETWORK",
            callback=_networks,
        ),
    ] = None,
    to_json: Annotated[
        Path | None, typer.Option("--json", help="Write the scores here.", dir_okay=False)
    ] = None,
    to_csv: Annotated[
        Path | None, typer.Option("--csv", help="Write the scores here.", dir_okay=False)
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(help="Write a PNG of results here.", dir_okay=False)
    ] = None,
    to_study: Annotated[
        Path | None,
        typer.Option("--study", help="Write an HTML page for judging pairs here.", dir_okay=False),
    ] = None,
    pairs: Annotated[
        int, typer.Option("--study-pairs", help="Pairs on that page.", min=1, max=500)
    ] = 60,
    size: Annotated[int, typer.Option(help="Side of the squares, pixels.", min=64)] = 256,
    limit: Annotated[int | None, typer.Option(help="Only so many photographs.", min=1)] = None,
    refine: Annotated[
        Refine, typer.Option(help="What is done to all fills; auto: what is served.")
    ] = "auto",
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Score models by size of the hole; telea and navier-stokes are always among them."""
    if networks and features is None:
        raise typer.BadParameter(
            "it needs --features, the folder of networks", param_hint="--frechet"
        )
    for path in (to_json, to_csv, grid, to_study):
        if path is not None:  # now, and not when everything is scored
            make_folder(path.parent)
    workers = threads or torch.get_num_threads()
    torch.set_num_threads(1)  # each worker's: photographs side by side keep all cores busy
    console = Console(highlight=False, soft_wrap=True)
    fillers = protocol.open_models(models or [], device)
    distances = {name: lpips.load(name, features) for name in lpips.FILES} if features else {}
    pooled = {name: frechet.load(name, features) for name in networks or [] if features}
    holes = protocol.read_holes(masks, size)
    photos = protocol.read_photographs(data, size, limit)
    if pooled and len(photos.squares) < 2:
        raise BadData("a Fréchet distance needs at least two photographs; only one can be read")
    counts = ", ".join(f"{bucket}: {len(found)}" for bucket, found in holes.items())
    console.print(f"{_counted(photos)}; masks by bucket: {counts}")
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        task = bar.add_task("", total=len(photos.squares))
        scores = protocol.evaluate(
            photos.squares,
            holes,
            fillers,
            distances,
            refine=refine,
            pooled=pooled,
            workers=workers,
            progress=lambda: bar.advance(task),
        )
    console.width = max(console.width, NARROWEST + WIDER * len(pooled))
    console.print(table(scores), soft_wrap=False)
    if to_json:
        with writing(to_json):
            to_json.write_text(json.dumps(scores, indent=1) + "\n")
    if to_csv:
        with writing(to_csv):
            write_csv(scores, to_csv)
    if grid:
        titles = ["photograph", "masked", *fillers]
        with writing(grid):
            rows = protocol.examples(photos.squares, holes, fillers, refine)
            plots.grid(rows, grid, titles=titles)
        console.print(f"results: {grid}")
    if to_study:
        with writing(to_study):
            written = study.write(photos.squares, holes, fillers, pairs, to_study, refine)
        console.print(f"study: {to_study}, {written} pairs, {to_study.stat().st_size / 1e6:.1f} MB")
    if photos.skipped:
        console.print(f"{_counted(photos)}:")
        for name, reason in photos.skipped.items():
            console.print(f"  {name}: {reason}", markup=False)


def _counted(photos: Photographs) -> str:
    return f"{len(photos.squares)} photographs, {len(photos.skipped)} unreadable ones skipped"


def table(scores: Scores) -> Table:
    """Return the scores to be printed, the best of each bucket in bold; models below buckets."""
    first = next(iter(scores.values()))  # all models have the same buckets and scores
    measured = [name for name, value in next(iter(first.values())).items() if value is not None]
    measured.remove("n")
    caption = [f"{' and '.join(MORE_IS_BETTER)}: more is better, the others: less; bold: the best"]
    if missing := [name for name in MEANS if name not in measured]:
        caption += [f"{', '.join(missing)}: not measured, for want of --features"]
    if kinds := {name.partition(" ")[0] for name in measured if name not in MEANS}:
        kind = ", ".join(sorted(kinds))
        caption += [f"{kind}: too large while n is small; comparable within this table only"]
    shown = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    shown.caption = "\n".join(caption)
    shown.add_column("model", overflow="fold", min_width=15)
    for name in measured:
        heading = name.replace("_", "\n", 1).replace(" ", "\n", 1)  # as narrow as the numbers
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("n", justify="right", no_wrap=True)
    for bucket in first:
        rivals = {model: buckets[bucket] for model, buckets in scores.items()}
        shown.add_row(f"[dim]hole {bucket} %[/dim]")
        best = {}
        for name in measured:
            better = max if name in MORE_IS_BETTER else min
            best[name] = better(_number(row[name]) for row in rivals.values())
        for model, row in rivals.items():
            cells = [cell(name, _number(row[name]), best[name]) for name in measured]
            shown.add_row(model, *cells, str(row["n"]))
        shown.add_section()
    return shown


def _number(value: float | int | None) -> float:
    assert value is not None
    return value


def cell(name: str, value: float, best: float) -> str:
    """Return a score as it is printed, in bold where it is the best of its bucket."""
    form = ".2f" if name == "psnr" else ".4f" if name in MEANS else "#.4g"
    text = format(value, form).rstrip(".")
    return f"[bold]{text}[/bold]" if value == best else text


def write_csv(scores: Scores, path: Path) -> None:
    """Write a line for each model and bucket, with every score; one not measured is empty."""
    lines = [
        {"model": model, "bucket": bucket, **row}
        for model, buckets in scores.items()
        for bucket, row in buckets.items()
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
