"""`inpaint bench labels`: do unlabelled images make up for labels that are missing?

In: drawn faces, and the recipe `ccgan-faces`. Out: accuracy on other faces, for a class head
trained on a share of the labels alone, with all other images beside them (CC-GAN, CC-GAN^2), and on
all labels.

Every trial is a run of `training.loop` from files, with its own folder, as `inpaint train` does it;
what differs between the arms are values of the recipe, and which labels the CSV file holds. All see
the same number of labelled squares per step, and as many steps. The faces that are seen and those
that are tested are the same in all trials; which of those seen have labels, and all that is random
in training, depends on the seed, and is the same in all arms.
"""

import csv
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from . import classify, data, loop, state
from . import faces as drawn_faces
from .faces import CLASSES
from .labels import COLUMNS
from .recipe import Recipe, load
from .trainer import Sources

SEEN, TESTED = 2000, 1200  # faces
SEEDS = 1, 2  # of what runs see, and of what they are tested on
ALONE = "labels alone"
ARMS = (ALONE, "CC-GAN", "CC-GAN^2", "all labels")


@dataclass(frozen=True)
class Trial:
    """One run: an arm with a seed."""

    arm: str
    seed: int
    share: float  # of the labels that the run may see
    steps: int | None  # None: the recipe's own


@dataclass(frozen=True)
class Result:
    """An arm over all seeds; accuracies are shares of the faces tested."""

    arm: str
    labelled: int  # faces
    unlabelled: int  # that the run sees too
    accuracies: tuple[float, ...]  # by seed
    mean: float
    deviation: float  # of a single run: the sample's standard deviation; 0 for one seed
    gain: float  # mean over seeds of the difference to `ALONE`
    gain_deviation: float  # of one such difference


def labels(
    *,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each arm.")] = 5,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of a run [default: the recipe's].")
    ] = None,
    share: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of the faces that have labels.")
    ] = 0.1,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write figures here.")
    ] = None,
) -> None:
    """Train a class head on few labels, with and without unlabelled images, and compare."""
    console = Console()
    trials = [Trial(arm, seed, share, steps) for seed in range(seeds) for arm in ARMS]
    with tempfile.TemporaryDirectory() as folder:
        faces = Faces.written(Path(folder))
        accuracies: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for trial, accuracy in zip(trials, _run(trials, faces), strict=True):
            accuracies[trial.arm].append(accuracy)
            console.print(f"seed {trial.seed}, {trial.arm}: {accuracy:.4f}", highlight=False)
    results = summary(accuracies, faces, share)
    console.print(_table(results, share, faces))
    if json_file is not None:
        figures = {"share": share, "tested": len(faces.tested), "arms": list(map(asdict, results))}
        json_file.write_text(json.dumps(figures, indent=2) + "\n")


def _run(trials: Sequence[Trial], faces: "Faces") -> Iterator[float]:
    """Yield the accuracy of each trial, in order; as many run at a time as there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    context = get_context("spawn")  # a fork would share torch's threads
    with ProcessPoolExecutor(
        cores, context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield from pool.map(accuracy_of, trials, [faces] * len(trials))


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces of the comparison.

    Attributes:
        folder: where those lie that runs see, as files `NUMBER.png`.
        seen: (N,), the class of each of them.
        tested: pixels uint8 (S,S,3) of others.
        truth: their classes.
    """

    folder: Path
    seen: NDArray[np.int64]
    tested: list[data.Pixels]
    truth: NDArray[np.int64]

    @classmethod
    def written(cls, folder: Path) -> "Faces":
        """Draw all faces and write those that runs see."""
        drawn, seen = drawn_faces.faces(SEEN, SEEDS[0])
        found = cls(folder / "faces", seen, *drawn_faces.faces(TESTED, SEEDS[1]))
        found.folder.mkdir()
        for number, pixels in enumerate(drawn):
            Image.fromarray(pixels).save(found.folder / f"{number}.png")
        return found

    def labelled(self, share: float, seed: int) -> NDArray[np.int64]:
        """Return the numbers of the faces with labels: a share of those seen, of every class."""
        rng = np.random.default_rng(seed)
        of_class = [np.flatnonzero(self.seen == kind) for kind in range(len(CLASSES))]
        few = [rng.permutation(numbers)[: round(share * len(numbers))] for numbers in of_class]
        return np.sort(np.concatenate(few))


def accuracy_of(trial: Trial, faces: Faces) -> float:
    """Train one arm and return the share of the tested faces that its class head names rightly."""
    share = 1.0 if trial.arm == "all labels" else trial.share
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few = faces.labelled(share, trial.seed)
        with (folder / "labels.csv").open("w", newline="") as file:
            rows = [(f"{number}.png", CLASSES[faces.seen[number]]) for number in few]
            csv.writer(file).writerows([COLUMNS, *rows])
        sources = Sources(data=(faces.folder,), labels=str(folder / "labels.csv"))
        run = loop.train(recipe_of(trial), sources, folder / "run")
        saved = state.load(run, torch.device("cpu"))
    assert saved is not None
    classifier = classify.of_run(saved)
    named = classifier.probabilities(faces.tested).argmax(1)
    names = np.array(classifier.header.classes)
    return float((names[named] == np.array(CLASSES)[faces.truth]).mean())


def recipe_of(trial: Trial) -> Recipe:
    """Return the recipe `ccgan-faces` with the values that make the arm."""
    with as_file(files("training") / "recipes" / "ccgan-faces.toml") as path:
        recipe = load(path)
    (stage,) = recipe.stages
    changed: dict[str, object] = {"seed": trial.seed + 1}
    if trial.steps is not None:
        stage = stage.model_copy(update={"steps": trial.steps})
    if trial.arm == "CC-GAN^2":
        changed["losses"] = recipe.losses.model_copy(update={"both_fakes": True})
    elif trial.arm != "CC-GAN":  # no game, and no square but the labelled ones
        changed["losses"] = recipe.losses.model_copy(update={"adversarial": 0.0, "hole": 0.0})
        stage = stage.model_copy(update={"batch": round(stage.batch * recipe.labelled)})
        changed["labelled"] = 1.0
    return recipe.model_copy(update={**changed, "stages": (stage,)})


def summary(accuracies: Mapping[str, Sequence[float]], faces: Faces, share: float) -> list[Result]:
    """Return a result for each arm; seeds are compared in pairs."""
    alone = np.array(accuracies[ALONE])
    few, seen = len(faces.labelled(share, 0)), len(faces.seen)
    results = []
    for arm, found in accuracies.items():
        values = np.array(found)
        labelled = seen if arm == "all labels" else few
        results.append(
            Result(
                arm=arm,
                labelled=labelled,
                unlabelled=0 if arm == ALONE else seen - labelled,
                accuracies=tuple(found),
                mean=float(values.mean()),
                deviation=_deviation(values),
                gain=float((values - alone).mean()),
                gain_deviation=_deviation(values - alone),
            )
        )
    return results


def _deviation(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _table(results: Sequence[Result], share: float, faces: Faces) -> Table:
    count = len(results[0].accuracies)
    table = Table(
        "arm",
        "labelled",
        "unlabelled",
        "accuracy, %",
        f"over {ALONE}",
        box=SIMPLE_HEAD,
        title=f"{share:.0%} labels, {count} seeds (mean ± deviation), {len(faces.tested)} tested",
    )
    for row in results:
        gain = "" if row.arm == ALONE else f"{100 * row.gain:+.2f} ± {100 * row.gain_deviation:.2f}"
        accuracy = f"{100 * row.mean:.2f} ± {100 * row.deviation:.2f}"
        table.add_row(row.arm, str(row.labelled), str(row.unlabelled), accuracy, gain)
    return table
