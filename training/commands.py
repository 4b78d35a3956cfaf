"""`inpaint train`, `inpaint eval` and `inpaint export`."""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from inpaint.errors import BadData
from models import checkpoint
from models.checkpoint import Header
from models.registry import create

from . import data as photographs
from . import evaluate as scoring
from . import loop, lpips, plots, state
from .recipe import Recipe, load


def _usable(device: str) -> str:
    """Refuse, as wrong usage, a device that this PyTorch cannot compute on."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the second: a PyTorch without CUDA
        raise typer.BadParameter(f"{device} cannot be used here; cpu always can.") from error
    return device


def _make(folder: Path) -> Path:
    """Make a folder for what is written, and return it.

    Raises:
        BadData: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadData(f"the folder {folder} cannot be made: {error.strerror}") from error
    return folder


Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", callback=_usable)]
Threads = Annotated[int | None, typer.Option(help="CPU threads.", min=1)]


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    data: Annotated[
        list[Path],
        typer.Option(help="Folder of photographs or tar shards, or a shard; repeatable."),
    ],
    out: Annotated[Path | None, typer.Option(help="The run's folder [default: runs/NAME].")] = None,
    features: Annotated[
        Path | None, typer.Option(help="Weights of the recipe's feature network, safetensors.")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of mask files, white = hole.")] = None,
    init: Annotated[
        Path | None, typer.Option(help="Begin with this checkpoint's weights; ignored on a resume.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Train a generator; run the same line again after a kill and it goes on from the last save."""
    if threads is not None:
        torch.set_num_threads(threads)
    parsed = load(recipe)
    folder = _make(out or Path("runs") / parsed.name)
    sources = loop.Sources(
        data=tuple(data),
        features=features,
        masks=tuple(photographs.image_files(masks)) if masks else (),
        init=init,
        device=device,
    )
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} img/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        task = bar.add_task(parsed.name, total=parsed.steps, rate=0.0)

        def advance(step: int, steps: int, rate: float) -> None:
            bar.update(task, completed=step, total=steps, rate=rate)

        loop.train(parsed, sources, folder, report=console.print, progress=advance)
    console.print(f"done: {folder}; next: inpaint export {folder} CHECKPOINTS_FOLDER")


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Paths of checkpoints, or names of shipped ones.", metavar="MODEL..."),
    ] = None,
    *,
    data: Annotated[Path, typer.Option(help="Folder of photographs kept out of training.")],
    masks: Annotated[Path, typer.Option(help="Folder of mask files, white = hole.")],
    features: Annotated[
        Path | None, typer.Option(help="Folder of LPIPS weights; see docs/training.md.")
    ] = None,
    to_json: Annotated[Path | None, typer.Option("--json", help="Write the scores here.")] = None,
    grid: Annotated[Path | None, typer.Option(help="Write a PNG of results here.")] = None,
    size: Annotated[int, typer.Option(help="Side of the squares, pixels.", min=64)] = 256,
    limit: Annotated[int | None, typer.Option(help="Only so many photographs.", min=1)] = None,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Score models by size of the hole; telea and navier-stokes are always among them."""
    if threads is not None:
        torch.set_num_threads(threads)
    for path in (to_json, grid):
        if path is not None:  # now, and not when everything is scored
            _make(path.parent)
    console = Console()
    fillers = scoring.open_models(models or [], device)
    distances = {name: lpips.load(name, features) for name in lpips.FILES} if features else {}
    holes = scoring.read_holes(masks, size)
    photos = scoring.read_photographs(data, size, limit)
    counts = ", ".join(f"{bucket}: {len(found)}" for bucket, found in holes.items())
    console.print(
        f"{len(photos.squares)} photographs, {len(photos.skipped)} unreadable ones skipped; "
        f"masks by bucket: {counts}",
        highlight=False,
        soft_wrap=True,
    )
    for name, reason in photos.skipped.items():
        console.print(f"  skipped {name}: {reason}", highlight=False, markup=False, soft_wrap=True)
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        task = bar.add_task("", total=len(photos.squares))
        scores = scoring.evaluate(
            photos.squares, holes, fillers, distances, progress=lambda: bar.advance(task)
        )
    console.print(scoring.table(scores))
    if to_json:
        to_json.write_text(json.dumps(scores, indent=1) + "\n")
    if grid:
        titles = ["photograph", "masked", *fillers]
        plots.grid(scoring.examples(photos.squares, holes, fillers), grid, titles=titles)
        console.print(f"results: {grid}")


def export(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    out: Annotated[Path, typer.Argument(help="Where the checkpoint goes: a folder.")],
    scores: Annotated[
        Path | None,
        typer.Option(
            help="JSON of `inpaint eval`, to be kept in the header.", exists=True, dir_okay=False
        ),
    ] = None,
    half: Annotated[bool, typer.Option(help="Store weights as float16.")] = True,
) -> None:
    """Make a checkpoint, with its card, from the averaged weights of a run's last saved state."""
    saved = state.load(run, torch.device("cpu"))
    if saved is None:
        raise BadData(f"{run} holds no training state ({state.FILE})")
    recipe = Recipe.model_validate_json(saved["recipe"])
    generator = create(recipe.architecture, recipe.generator)
    generator.load_state_dict(saved["averaged"] if recipe.average else saved["generator"])
    facts = {
        "recipe": recipe.model_dump(mode="json"),
        "data": recipe.data,
        "images": saved["images"],
        "steps": saved["step"],
        "hours": round(saved["seconds"] / 3600, 2),
        "device": saved["device"],
        "torch": torch.__version__,
    }
    header = Header.of(
        generator,
        name=recipe.name,
        license=recipe.license,
        license_note=recipe.license_note,
        training=facts,
        scores=json.loads(scores.read_text()).get(recipe.name, {}) if scores else {},
    )
    rule = type(generator.rule)(**{**vars(generator.rule), "trained": recipe.trained})
    source = recipe.source or header.source
    header = header.model_copy(update={"rule": rule, "source": source})
    path = _make(out) / f"{recipe.name}{checkpoint.SUFFIX}"
    dtype = torch.float16 if half else torch.float32
    checkpoint.save(path, generator, header, dtype=dtype)
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {saved['step']} steps")
