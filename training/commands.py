"""`inpaint train` and `inpaint export`."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any  # states of runs are nested dicts

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from inpaint.errors import BadCheckpoint, BadData
from models import checkpoint
from models.checkpoint import Header
from models.registry import Network, create

from . import calibration, classify, detect, detection, distributed, loop, state
from .data import files_in
from .detection import DetectorRecipe
from .options import Device, Masks, Silhouettes, Threads, make_folder, writing
from .recipe import Recipe, load
from .trainer import Sources


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    data: Annotated[
        list[Path],
        typer.Option(help="Folder of photographs or tar shards, or a shard; repeatable."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The run's folder.", show_default="runs/NAME")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Weights of the recipe's feature network, safetensors.")
    ] = None,
    masks: Masks = None,
    silhouettes: Silhouettes = None,
    labels: Annotated[
        str | None,
        typer.Option(help="'folders' (a folder below --data per class), or a CSV: file,class."),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(help="Begin with this checkpoint's weights, widened; not on a resume."),
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Train a model; run the same line again after a kill and it goes on from the last save."""
    if threads is not None:
        torch.set_num_threads(threads)
    parsed = detection.load(recipe) if detection.is_detector(recipe) else load(recipe)
    folder = make_folder(out or Path("runs") / parsed.name)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} img/s"),
        TimeRemainingColumn(),
    )
    with distributed.ranks(device) as own_device:
        sources = Sources(
            data=tuple(data),
            features=features,
            masks=files_in(masks),
            silhouettes=files_in(silhouettes),
            labels=labels,
            init=init,
            device=own_device,
        )
        console = Console(quiet=distributed.rank() > 0)
        report = partial(console.print, highlight=False, markup=False, soft_wrap=True)
        with Progress(*columns, console=console, refresh_per_second=2) as bar:
            task = bar.add_task(parsed.name, total=parsed.steps, rate=0.0)

            def advance(step: int, steps: int, rate: float) -> None:
                bar.update(task, completed=step, total=steps, rate=rate)

            if isinstance(parsed, DetectorRecipe):
                detect.train(
                    parsed, tuple(data), folder, device=device, report=report, progress=advance
                )
            else:
                loop.train(parsed, sources, folder, report=report, progress=advance)
        report(f"done: {folder}; next: inpaint export {folder} CHECKPOINTS_FOLDER")


def export(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    out: Annotated[Path, typer.Argument(help="Where the checkpoint goes: a folder.")],
    scores: Annotated[
        Path | None,
        typer.Option(
            help="JSON of `inpaint eval`, to be kept in the header.", exists=True, dir_okay=False
        ),
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="Also write the class head, as a file of its own.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Of a detector: what it was trained on; a part is kept to calibrate it."),
    ] = None,
    half: Annotated[bool, typer.Option(help="Store weights as float16.")] = True,
) -> None:
    """Make a checkpoint, with its card, from the averaged weights of a run's last saved state."""
    saved = state.load(run, torch.device("cpu"))
    if saved is None:
        raise BadData(f"{run} holds no training state ({state.FILE})")
    if "pool" in saved:  # of crops: a detector's
        _export_detector(run, saved, out, scores, data, torch.float16 if half else torch.float32)
        return
    with state.naming(run):
        recipe = Recipe.model_validate_json(saved["recipe"])
        generator = create(recipe.architecture, recipe.generator)
        generator.load_state_dict(saved["averaged"] if recipe.average else saved["generator"])
        facts = _facts(recipe, saved)
        head = classify.of_run(saved) if classifier is not None else None
    if classifier is not None and head is not None:
        classify.save_classifier(classifier, head)
        typer.echo(f"{classifier}: {', '.join(head.header.classes)}")
    header = Header.of(
        generator,
        name=recipe.name,
        license=recipe.license,
        license_note=recipe.license_note,
        training=facts,
        scores=_scores(scores, recipe.name) if scores else {},
    )
    rule = type(generator.rule)(**{**vars(generator.rule), "trained": recipe.trained})
    source = recipe.source or header.source
    header = header.model_copy(update={"rule": rule, "source": source})
    _save(make_folder(out), generator, header, torch.float16 if half else torch.float32)


def _export_detector(
    run: Path,
    saved: dict[str, Any],
    out: Path,
    scores: Path | None,
    data: list[Path] | None,
    dtype: torch.dtype,
) -> None:
    if not data:
        raise BadData("a detector is calibrated with photographs: name the run's with --data")
    with state.naming(run):
        recipe = DetectorRecipe.model_validate_json(saved["recipe"])
        detector = detect.first_detector(recipe)
        detector.load_state_dict(saved["averaged"])
        facts = _facts(recipe, saved) | {"rendered": sum(detect.rendered(saved))}
    header = Header.of(
        detector,
        name=recipe.name,
        license=recipe.license,
        license_note=recipe.license_note,
        training=facts,
        scores=_scores(scores, recipe.name) if scores else {},
        detection=calibration.of_held_out(detector, tuple(data)),
    )
    header = header.model_copy(update={"source": recipe.source or header.source})
    _save(make_folder(out), detector, header, dtype)


def _facts(recipe: Recipe | DetectorRecipe, saved: dict[str, Any]) -> dict[str, object]:
    """Return what a card says about a run."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "data": recipe.data,
        "images": saved["images"],
        "steps": saved["step"],
        "hours": round(saved["seconds"] / 3600, 2),
        "device": saved["device"],
        "torch": torch.__version__,
    }


def _save(folder: Path, network: Network, header: Header, dtype: torch.dtype) -> None:
    """Write a checkpoint into a folder, and say so.

    Raises:
        BadCheckpoint: if weights are not finite, or not as float16.
    """
    path = folder / f"{header.name}{checkpoint.SUFFIX}"
    try:
        with writing(path):
            checkpoint.save(path, network, header, dtype=dtype)
    except ValueError as error:
        raise BadCheckpoint(str(error)) from error
    steps = header.training["steps"]
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {steps} steps")


def _scores(path: Path, name: str) -> dict[str, object]:
    """Return a model's scores out of the JSON of `inpaint eval`; none where it was not scored.

    Raises:
        BadData: if the file holds something else.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadData(f"scores {path} cannot be read: {error}") from error
    own = found.get(name, {}) if isinstance(found, dict) else None
    if not isinstance(own, dict):
        raise BadData(f"scores {path} are not what `inpaint eval --json` writes")
    return own
