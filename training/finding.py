"""`inpaint eval damage`: how well a detector finds damage, beside the classical ones.

In: a detector's checkpoint and photographs that it was not trained on, on which damage is rendered
with the settings of training and with unseen ones; or a folder of scans. Out: tables, JSON, and a
sheet of scan | mask | restored.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from inpaint.errors import BadData, InpaintError
from inpaint.highres import Pixels
from inpaint.mask import Hole, grow
from inpaint.picture import decode
from inpaint.restore import restore
from inpaint.settings import Settings as Service
from models.damage import GROWN, LEVELS, Detector, find, load_detector

from . import data as photographs
from . import evaluate as protocol
from . import plots
from .damage import render
from .damage_baselines import BASELINES
from .damage_scores import DamageScores, Map
from .injuries import TRAIN, UNSEEN, Settings
from .options import Device, Threads, make_folder, writing

FIRST_SEED = 9000  # of the renderings: what is trained on has larger ones
SETTINGS = {"seen settings": TRAIN, "unseen settings": UNSEEN}
CELL = 420  # pixels, of a sheet

Detect = Callable[[Pixels], Map]


@dataclass(frozen=True)
class Row:
    """Scores of one way to find damage, on renderings with one kind of settings."""

    method: str
    ap: float | None  # None: it gives holes, no probabilities
    ap_thin: float | None  # without peel, wear and tear
    f1: float  # the best of all thresholds
    precision: float  # there
    recall: float
    f1_thin: float
    flagged: float  # share of clean prints, there
    kinds: dict[str, float]  # recall of each


def evaluate(
    *,
    checkpoint: Annotated[Path, typer.Option(help="The detector.", exists=True, dir_okay=False)],
    data: Annotated[
        Path | None, typer.Option(help="Folder of photographs kept out of training.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Only so many photographs.", min=1)] = 30,
    real: Annotated[Path | None, typer.Option(help="Folder of scans to look at.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a PNG of the scans here.", dir_okay=False)
    ] = None,
    sensitivity: Annotated[float, typer.Option(help="Of the masks.", min=0, max=1)] = 0.5,
    to_json: Annotated[
        Path | None, typer.Option("--json", help="Write the scores here.", dir_okay=False)
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Score a detector on rendered damage, and show what it finds on scans."""
    if data is None and real is None:
        raise typer.BadParameter("--data or --real is required.")
    if threads is not None:
        torch.set_num_threads(threads)
    for path in (to_json, sheet):
        if path is not None:  # now, and not when everything is scored
            make_folder(path.parent)
    console = Console(highlight=False, soft_wrap=True)
    detector, header = load_detector(checkpoint, device)
    console.print(f"{header.name}: {detector.engine}, {detector.precision}")
    found: dict[str, dict[str, object]] = {}
    if data is not None:
        scores: dict[str, object] = {}
        wanted = photographs.read([data], longest=100_000)
        places = np.linspace(0, len(wanted.pixels) - 1, min(limit, len(wanted.pixels)))
        chosen = [wanted.pixels[round(place)] for place in places]
        for name, settings in SETTINGS.items():
            rows = score(detector, header.name, chosen, settings, sensitivity)
            console.print(table(f"{name}, {len(chosen)} photographs", rows), soft_wrap=False)
            scores[name] = [asdict(row) for row in rows]
        found[header.name] = scores
    if real is not None:
        shares = look(detector, real, sheet, sensitivity, device)
        for name, share in shares.items():
            console.print(f"{share:8.3%}  {name}", markup=False)
        console.print(f"{median(shares.values()):8.3%}  in the median of {len(shares)}")
        found["real"] = dict(shares)
    if to_json is not None:
        with writing(to_json):
            to_json.write_text(json.dumps(found, indent=1) + "\n")


def score(
    detector: Detector,
    name: str,
    chosen: list[Pixels],
    settings: Settings,
    sensitivity: float,
) -> list[Row]:
    """Return a row for the detector, for its holes, and for each classical detector."""

    def hole(pixels: Pixels) -> Hole:
        return find(detector.probabilities(pixels), sensitivity, detector.thresholds)

    methods: dict[str, Detect] = {
        name: lambda pixels: detector.probabilities(pixels).max(axis=2),
        f"{name}, holes at {sensitivity}": hole,
        **BASELINES,
    }
    scores = {method: DamageScores() for method in methods}
    for number, photograph in enumerate(chosen):
        damaged = render(photograph, FIRST_SEED + number, settings)
        for method, detect in methods.items():
            scores[method].add(detect(damaged.image), damaged)
            scores[method].add_clean(detect(damaged.truth))
    return [_row(method, counted, holes=" holes " in method) for method, counted in scores.items()]


def _row(method: str, scores: DamageScores, *, holes: bool) -> Row:
    curve, thin = scores.all, scores.thin
    best = LEVELS if holes else curve.best_threshold
    return Row(
        method,
        None if holes else curve.average_precision,
        None if holes else thin.average_precision,
        float(curve.f1[best - 1]),
        float(curve.precision[best - 1]),
        float(curve.recall[best - 1]),
        float(thin.f1[best - 1]),
        scores.flagged(best),
        scores.recall_by_kind(best),
    )


def table(title: str, rows: list[Row]) -> Table:
    """Return scores to be printed."""
    shown = Table(title=title, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    shown.add_column("method", overflow="fold")
    for heading in ("AP", "thin", "F1", "P", "R", "F1 thin", "clean"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        values = (row.ap, row.ap_thin, row.f1, row.precision, row.recall, row.f1_thin)
        cells = ["" if value is None else f"{value:.3f}" for value in values]
        shown.add_row(row.method, *cells, f"{row.flagged:.2%}")
    return shown


def look(
    detector: Detector, folder: Path, sheet: Path | None, sensitivity: float, device: str
) -> dict[str, float]:
    """Return the share of each scan that is found damaged; draw scan | mask | restored.

    Raises:
        BadData: if the folder holds no picture that can be read.
    """
    filler = None
    if sheet is not None:
        model = Service().model
        filler = protocol.open_models([model], device)[model]
    shares, rows = {}, []
    for path in photographs.files_in(folder):
        try:
            pixels = decode(path.read_bytes()).pixels
        except (InpaintError, OSError):
            continue
        hole = find(detector.probabilities(pixels), sensitivity, detector.thresholds)
        shares[path.name] = float(hole.mean())
        if filler is not None:
            grown = grow(hole, GROWN)
            filled = restore(pixels, grown, filler) if hole.any() and not grown.all() else pixels
            mask = np.repeat(hole[..., None] * np.uint8(255), 3, axis=2)
            rows.append([_cell(shown) for shown in (pixels, mask, filled)])
    if not shares:
        raise BadData(f"no picture in {folder} can be read")
    if sheet is not None:
        with writing(sheet):
            plots.grid(rows, sheet)
    return shares


def _cell(pixels: Pixels) -> Pixels:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (CELL, CELL), (40, 40, 40))
    square.paste(image)
    return np.asarray(square)
