"""`inpaint eval repair`: detection and filling scored end to end; a table, JSON, a sheet.

In: photographs, a detector and a model. Out: what `repair` measured, printed, and as JSON and PNG
where that is asked for.
"""

import json
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from inpaint.errors import BadData, ImageTooSmall, UnknownModel
from inpaint.mask import Hole
from inpaint.settings import Settings
from models import checkpoint
from models.damage import find, load_detector

from . import lpips, plots, repair
from .evaluate import REFERENCES, Photographs, Pixels, open_models, read_each
from .options import Device, Threads, make_folder, writing
from .repair import Repairs

SMALLEST = 64  # pixels of a photograph's side: feature networks need them
CELL = 352  # pixels of a side, of the sheet's pictures
COLOURS = 256  # of the sheet
TITLES = ("damaged", "mask found", "restored", "truth")
CLASSICAL = "telea"  # that a learned model has to beat
PACKAGED = ("astronaut", "chelsea", "coffee", "rocket")  # photographs that come with scikit-image
HEADINGS = {  # of the table's columns, by score
    "psnr": "psnr",
    "ssim": "ssim",
    "lpips": "lpips",
    "lpips_alex": "lpips\nalex",
    "zone": "zone\nlevels",
    "recovered": "recov-\nered",
    "recovered_lpips": "lpips\nrecov.",
}
DIGITS = {"psnr": 2, "zone": 2, "recovered": 3, "recovered_lpips": 3}  # of the others 4


def evaluate(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of photographs kept out of training; by default those of scikit-image."
        ),
    ] = None,
    *,
    detector: Annotated[
        str, typer.Option(help="Path of a detector's checkpoint, or name of a shipped one.")
    ] = "scratches",
    model: Annotated[
        str, typer.Option(help="Path of a checkpoint, or name of a shipped or classical model.")
    ] = str(Settings.model_fields["model"].default),
    features: Annotated[
        Path | None, typer.Option(help="Folder of feature networks; see docs/training.md.")
    ] = None,
    sensitivity: Annotated[float, typer.Option(help="Of the detector.", min=0, max=1)] = 0.5,
    to_json: Annotated[
        Path | None, typer.Option("--json", help="Write the scores here.", dir_okay=False)
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a PNG of prints here.", dir_okay=False)
    ] = None,
    rows: Annotated[int, typer.Option(help="Prints on that sheet.", min=1, max=100)] = 4,
    size: Annotated[
        int, typer.Option(help="Scale down photographs with a longer side, pixels.", min=SMALLEST)
    ] = 640,
    limit: Annotated[int, typer.Option(help="Only so many photographs.", min=1)] = 30,
    seed: Annotated[int, typer.Option(help="Of the first print.", min=0)] = repair.FIRST_SEED,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Score how much of rendered damage is found and repaired, and what repair harms."""
    for path in (to_json, sheet):
        if path is not None:  # now, and not when everything is scored
            make_folder(path.parent)
    workers = threads or torch.get_num_threads()
    torch.set_num_threads(1)  # each worker's: prints side by side keep all cores busy
    console = Console(highlight=False, soft_wrap=True)
    detect = open_detector(detector, device, sensitivity)
    opened = open_models([model], device)
    name = model if model in REFERENCES else next(iter(opened))
    fillers = {each: opened[each] for each in (name, CLASSICAL)}
    distances = {network: lpips.load(network, features) for network in lpips.FILES if features}
    photos = read(data, size, limit)
    prints = {
        word: repair.prints(photos.squares.values(), settings, seed)
        for word, settings in repair.SETTINGS.items()
    }
    columns = (TextColumn("repairing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        task = bar.add_task("", total=sum(map(len, prints.values())))
        found = {
            word: repair.measure(
                each,
                detect,
                fillers,
                distances,
                workers=workers,
                progress=lambda: bar.advance(task),
            )
            for word, each in prints.items()
        }
    for word, repairs in found.items():
        console.print(
            f"{word}: {repairs.prints} prints, {repairs.damaged:.2%} damaged, {repairs.found:.2%} "
            f"found; when clean {repairs.flagged:.3%} found, changed by {repairs.harm:.3f} levels"
        )
    console.print(table(found), soft_wrap=False)
    if to_json:
        with writing(to_json):
            scores = {word: asdict(repairs) for word, repairs in found.items()}
            to_json.write_text(json.dumps(scores, indent=1) + "\n")
    if sheet:
        shown = repair.examples(prints["unseen"], detect, fillers[name], rows, CELL)
        with writing(sheet):
            plots.grid(list(shown), sheet, titles=TITLES, colours=COLOURS)
        console.print(f"{' | '.join(TITLES)}: {sheet}", markup=False)
    for photo, reason in photos.skipped.items():
        console.print(f"skipped {photo}: {reason}", markup=False)


def open_detector(word: str, device: str = "cpu", sensitivity: float = 0.5) -> repair.Detect:
    """Return what finds holes.

    Args:
        word: path of a checkpoint, or name of a shipped one.
        device: where it computes.
        sensitivity: in [0, 1].

    Raises:
        UnknownModel: if there is neither a file nor a model of that name.
        BadCheckpoint: naming the file and the reason.
    """
    with as_file(files("models") / "checkpoints") as shipped:
        path = Path(word)
        if path.suffix != checkpoint.SUFFIX:
            path = shipped / f"{word}{checkpoint.SUFFIX}"
        if not path.is_file():
            raise UnknownModel(f"{word} is neither a checkpoint's path nor a shipped detector")
        detector, _ = load_detector(path, device, engine="torch")  # several threads may run it

    def detect(pixels: Pixels) -> Hole:
        return find(detector.probabilities(pixels), sensitivity, detector.thresholds)

    return detect


def read(folder: Path | None, size: int, limit: int) -> Photographs:
    """Read whole photographs under a folder, or those of scikit-image.

    Args:
        folder: image files, in sub-folders too; None: the packaged ones.
        size: longer sides are scaled down to it, pixels.
        limit: take so many, spread evenly over the sorted names.

    Raises:
        BadData: if no photograph can be read.
    """
    if folder is not None:
        return read_each(folder, lambda pixels: reduced(pixels, size), limit)
    try:
        from skimage import data  # here, because it is installed with the extra `demo` alone
    except ModuleNotFoundError as error:
        raise BadData("name a folder with --data: scikit-image is not installed here") from error
    packaged = {name: np.asarray(getattr(data, name)()) for name in PACKAGED[:limit]}
    return Photographs({name: reduced(pixels, size) for name, pixels in packaged.items()}, {})


def reduced(pixels: Pixels, size: int) -> Pixels:
    """Scale a photograph (H,W,3) down where its long side is beyond `size` pixels.

    Raises:
        ImageTooSmall: if the short side of the outcome is below 64 pixels.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    if min(image.size) < SMALLEST:
        raise ImageTooSmall(f"{image.width}x{image.height} pixels; {SMALLEST} are needed")
    return np.array(image)


def table(found: dict[str, Repairs]) -> Table:
    """Return the scores to be printed, by settings of the renderer."""
    measured = {name for each in found.values() for way in each.ways for name in way.scores}
    shown = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    names = [name for name in HEADINGS if name in measured]
    shown.caption = "recovered: of the zone's error, of what the true hole and the first model take"
    if "lpips" not in measured:
        shown.caption += "\nlpips: not measured, for want of --features"
    shown.add_column("hole, filled by", overflow="fold", min_width=15)
    for name in names:
        shown.add_column(HEADINGS[name], justify="right", no_wrap=True)
    for word, repairs in found.items():
        shown.add_row(f"[dim]{word}[/dim]")
        for way in repairs.ways:
            cells = [
                f"{way.scores[name]:.{DIGITS.get(name, 4)}f}" if name in way.scores else ""
                for name in names
            ]
            shown.add_row(f"{way.hole}, {way.model}" if way.model else way.hole, *cells)
        shown.add_section()
    return shown
