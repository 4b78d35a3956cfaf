"""`inpaint bench train`: how fast one training step of each system is, and what it waits for data.

Weights are fresh and photographs are noise: speed does not depend on them, and no file is needed.
"""

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image

from models.timing import fastest_in_turn, machine
from models.timing import seconds as timed

from . import data
from .detection import is_detector
from .features import FeatureNetwork
from .recipe import Recipe, load
from .trainer import Sources, Trainer

RECIPES = Path(__file__).parent / "recipes"
LARGEST = 256  # pixels; larger squares are measured at this size, two at a time
COMPARED = "aotgan"  # the architecture that is also timed in plain float32
PHOTOGRAPHS = 16
LEAST_STEPS = 3


@dataclass(frozen=True)
class Row:
    """One recipe's step."""

    recipe: str
    size: int  # side of the squares, pixels
    batch: int
    device: str
    seconds_step: float  # the fastest, its waiting included
    images_per_second: float
    waiting: float  # share of all steps' time that was spent waiting for data
    making: float  # seconds that a batch takes to make, over those of a step
    seconds_float32: float | None = None  # the same step in float32, channels first
    speedup: float | None = None


def train(
    recipes: Annotated[
        list[Path] | None, typer.Argument(help="Recipes [default: the shipped ones].")
    ] = None,
    *,
    seconds: Annotated[float, typer.Option(min=0, help="Time for each row, at least.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write figures here.")
    ] = None,
) -> None:
    """Time one training step of each recipe, and what it waits for data."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shipped = sorted(path for path in RECIPES.glob("*.toml") if not is_detector(path))
    parsed = [load(path) for path in recipes or shipped]
    print(machine(device))
    print(f"{'recipe':40}{'px':>5}{'batch':>6}{'step s':>9}{'img/s':>8}{'waiting':>9}{'making':>8}")
    rows = []
    for recipe in parsed:
        row = measure(recipe, device, seconds=seconds)
        print(
            f"{row.recipe:40}{row.size:5}{row.batch:6}{row.seconds_step:9.3f}"
            f"{row.images_per_second:8.1f}{row.waiting:9.1%}{row.making:8.1%}",
            flush=True,
        )
        rows.append(row)
    for row in rows:
        if row.speedup is not None:
            print(
                f"{row.recipe}: {row.seconds_float32:.3f} s in float32, channels first: "
                f"{row.speedup:.2f} times as long, in turn"
            )
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def measure(recipe: Recipe, device: str, *, seconds: float) -> Row:
    """Time steps of the recipe's last stage, with a real loader.

    Args:
        recipe: what would be trained.
        device: "cpu" or "cuda".
        seconds: go on for this long at least.
    """
    recipe = _endless(recipe)
    stage = recipe.stages[0]
    with tempfile.TemporaryDirectory() as folder:
        sources = Sources((), features=_fresh_features(recipe, Path(folder)), device=device)
        trainer = Trainer(recipe, sources, classes=2)
        material = _material(stage.size, Path(folder))
        loader = data.Loader(material, recipe, 0)
        try:
            steps = _time_steps(trainer, loader, seconds)
        finally:
            loader.close()
        batch = data.make_batch(material, recipe, 0)
        making = min(timed(lambda: data.make_batch(material, recipe, 0)) for _ in range(3))
        ours = plain = None
        if recipe.architecture == COMPARED:
            slow = Trainer(
                recipe.model_copy(update={"precision": "float32"}),
                sources,
                classes=2,
                layout=torch.contiguous_format,
            )
            ours, plain = fastest_in_turn(
                lambda: _step(trainer, batch), lambda: _step(slow, batch), at_least=seconds
            )
    fastest = min(whole for whole, _ in steps)
    return Row(
        recipe=recipe.name,
        size=stage.size,
        batch=stage.batch,
        device=device,
        seconds_step=fastest,
        images_per_second=stage.batch / fastest,
        waiting=sum(waited for _, waited in steps) / sum(whole for whole, _ in steps),
        making=making / fastest,
        seconds_float32=plain,
        speedup=plain / ours if plain is not None and ours is not None else None,
    )


def _time_steps(trainer: Trainer, loader: data.Loader, seconds: float) -> list[tuple[float, float]]:
    """Return the seconds of each step, and those of them that it waited for its batch."""
    for _ in range(data.AHEAD):  # what was made ahead would hide a slow loader
        loader.next()
    _step(trainer, loader.next())  # the first step is a slow one
    steps: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(steps) < LEAST_STEPS or time.perf_counter() < end:
        began = time.perf_counter()
        batch = loader.next()
        waited = time.perf_counter() - began
        _step(trainer, batch)
        steps.append((time.perf_counter() - began, waited))
    return steps


def _step(trainer: Trainer, batch: data.Batch) -> None:
    trainer.step(batch, 0)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()


def _endless(recipe: Recipe) -> Recipe:
    """Return the recipe with its last stage alone, which the measurement does not outlast."""
    last = recipe.stages[-1]
    large = {"size": LARGEST, "batch": 2} if last.size > LARGEST else {}
    stage = last.model_copy(update={"steps": 1_000_000, **large})
    return recipe.model_copy(update={"stages": (stage,)})


def _fresh_features(recipe: Recipe, folder: Path) -> Path:
    """Write fresh weights of the recipe's feature network, and return the file."""
    wanted = recipe.features
    path = folder / f"{wanted.network}.pth"
    network = FeatureNetwork(wanted.network, (*wanted.perceptual_taps, *wanted.style_taps))
    torch.save(network.state_dict(), path)
    return path


def _material(size: int, folder: Path) -> data.Material:
    """Return noise as photographs, of twice the squares' side as in a run, and a shape to cut."""
    rng = np.random.default_rng(0)
    shape = PHOTOGRAPHS, 2 * size, 3 * size, 3
    photographs = rng.integers(0, 256, shape, dtype=np.uint8)
    white = np.zeros((size, size), np.uint8)
    white[size // 4 : size // 2, size // 4 : 3 * size // 4] = 255
    file = folder / "shape.png"
    Image.fromarray(white).save(file)
    labels = np.arange(PHOTOGRAPHS, dtype=np.int64) % 3 - 1  # a third has none
    return data.Material([*photographs], labels=labels, masks=[file], silhouettes=[file])
