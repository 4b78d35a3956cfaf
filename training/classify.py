"""The class head of a semi-supervised run as a thing of its own: saved, loaded, asked and scored.

In: a run's state, or a classifier's file. Out: that file, and a class for each photograph.

A classifier's file is safetensors: the discriminator's tensors (trunk, class head, and the
real/fake head, which is a single row), and in its `__metadata__` the strings `format` and `header`,
the second one JSON.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from inpaint.errors import BadCheckpoint, BadData
from models.tensors import to_image

from . import data as photographs
from . import discriminators
from . import labels as naming
from .data import Pixels
from .discriminators import Discriminator, Kind
from .evaluate import central_square
from .recipe import Recipe

FORMAT: Final = "inpaint-classifier/1"
AT_ONCE = 64  # squares that are classified together


class Header(BaseModel):
    """What a classifier says about itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    channels: int = Field(ge=1)  # width of the first layer
    size: int = Field(ge=1)  # side of the squares that it judges, pixels
    classes: tuple[str, ...] = Field(min_length=2)
    training: dict[str, Any] = {}  # facts: recipe, images, steps; JSON, hence Any
    license: str = Field(min_length=1)  # SPDX identifier, of the weights
    license_note: str = ""


@dataclass(frozen=True)
class Classifier:
    """A discriminator with a class head, and what is known about it."""

    header: Header
    discriminator: Discriminator

    @torch.no_grad()
    def probabilities(self, squares: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return the classes' probabilities (N,K) for N squares uint8 (size,size,3)."""
        self.discriminator.eval()
        found = [np.empty((0, len(self.header.classes)), np.float32)]
        for first in range(0, len(squares), AT_ONCE):
            image = to_image(np.stack(squares[first : first + AT_ONCE]))
            judged = self.discriminator(image)
            assert judged.classes is not None
            found.append(judged.classes.softmax(1).numpy())
        return np.concatenate(found)


def of_run(saved: Mapping[str, Any]) -> Classifier:
    """Return the classifier of a run's saved state.

    Raises:
        BadData: if the run trains none.
    """
    recipe = Recipe.model_validate_json(saved["recipe"])
    if not recipe.losses.classes:
        raise BadData(f"the run {recipe.name} has no class head: its recipe's losses.classes is 0")
    if recipe.losses.part != "whole":
        raise BadData(f"the class head of {recipe.name} saw the centre alone: losses.part")
    header = Header(
        kind=recipe.discriminator.kind,
        channels=recipe.discriminator.channels,
        size=recipe.stages[-1].size,
        classes=saved["classes"],
        training={
            "recipe": recipe.model_dump(mode="json"),
            "images": saved["images"],
            "steps": saved["step"],
        },
        license=recipe.license,
        license_note=recipe.license_note,
    )
    discriminator = _built(header)
    discriminator.load_state_dict(saved["discriminator"])
    return Classifier(header, discriminator)


def save_classifier(path: Path, classifier: Classifier) -> None:
    """Write a classifier's file, in float32.

    Raises:
        BadData: if the file cannot be written.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in classifier.discriminator.state_dict().items()
    }
    strings = {"format": FORMAT, "header": classifier.header.model_dump_json()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata=strings)
    except (OSError, SafetensorError) as error:
        raise BadData(f"the classifier {path} cannot be written: {error}") from error


def load_classifier(path: Path) -> Classifier:
    """Return the classifier of a file, in float32 on the CPU.

    Raises:
        BadCheckpoint: naming the file and the reason.
    """
    try:
        with safe_open(path, framework="pt") as file:
            strings = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(f"{path} cannot be read as safetensors: {error}") from error
    if strings.get("format") != FORMAT:
        raise BadCheckpoint(f"{path}: format is {strings.get('format')!r}; accepted is {FORMAT!r}")
    try:
        header = Header.model_validate_json(strings.get("header", ""))
        discriminator = _built(header)
        discriminator.load_state_dict(tensors)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadCheckpoint(f"{path}: header field {key}: {first['msg']}") from error
    except (ValueError, RuntimeError) as error:  # the second: names or shapes, all of them listed
        raise BadCheckpoint(f"{path}: {' '.join(str(error).split())}") from error
    if strange := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise BadCheckpoint(f"{path}: values that are not finite in: {', '.join(strange)}")
    return Classifier(header, discriminator)


def _built(header: Header) -> Discriminator:
    return discriminators.create(
        header.kind, channels=header.channels, size=header.size, classes=len(header.classes)
    )


def confusion(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Return how often each true class (row) was taken for each class (column), (K,K).

    Args:
        truth: (N,), -1 = unlabelled, which is left out.
        predicted: (N,).
        classes: K.
    """
    found = np.zeros((classes, classes), np.int64)
    known = truth >= 0
    np.add.at(found, (truth[known], predicted[known]), 1)
    return found


def classify(
    file: Annotated[Path, typer.Argument(help="A classifier, as `inpaint export` writes it.")],
    data: Annotated[Path, typer.Option(help="Folder of photographs or tar shards, or a shard.")],
    labels: Annotated[
        str | None, typer.Option(help="What is right: 'folders', or a CSV with file,class.")
    ] = None,
    to_csv: Annotated[
        Path | None, typer.Option("--csv", help="Write file, class and probability here.")
    ] = None,
) -> None:
    """Name the class of each photograph; with labels, say how often that is right."""
    classifier = load_classifier(file)
    size, classes = classifier.header.size, classifier.header.classes
    found = photographs.read([data], longest=2 * size)
    truth = (
        naming.read(labels, found.names, skipped=found.skipped, classes=classes).numbers
        if labels
        else np.full(len(found.names), naming.UNLABELLED)
    )
    squares = [central_square(pixels, size) for pixels in found.pixels]
    probabilities = classifier.probabilities(squares)
    predicted = probabilities.argmax(1)
    console = Console()
    for line in found.skipped:
        console.print(f"skipped {line}", highlight=False, markup=False, soft_wrap=True)
    if to_csv:
        best = zip(found.names, predicted, probabilities.max(1), strict=True)
        _write(to_csv, [(name, classes[number], f"{share:.4f}") for name, number, share in best])
    counts = confusion(truth, predicted, len(classes))
    console.print(_table(classes, counts, np.bincount(predicted, minlength=len(classes))))
    if labels:
        right, labelled = int(counts.trace()), int(counts.sum())
        console.print(f"accuracy {right / labelled:.4f}: {right} of {labelled} photographs")


def _write(path: Path, rows: list[tuple[str, str, str]]) -> None:
    """Write predictions; the file can be given as --labels.

    Raises:
        BadData: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([(*naming.COLUMNS, "probability"), *rows])
    except OSError as error:
        raise BadData(f"the predictions {path} cannot be written: {error}") from error


def _table(
    classes: Sequence[str], counts: NDArray[np.int64], predicted: NDArray[np.int64]
) -> Table:
    """Return a row per class: how many were named so, and, of labelled ones, how many rightly."""
    table = Table("class", "named so", box=SIMPLE_HEAD)
    labelled = counts.sum(1)
    if labelled.any():
        for heading in ("labelled", "right", "share", "else most often"):
            table.add_column(heading)
    for number, name in enumerate(classes):
        row = [name, str(predicted[number])]
        if labelled[number]:
            right = counts[number, number]
            wrong = counts[number].copy()
            wrong[number] = 0
            worst = f"{classes[wrong.argmax()]} ({wrong.max()})" if wrong.any() else ""
            row += [str(labelled[number]), str(right), f"{right / labelled[number]:.3f}", worst]
        table.add_row(*row)
    return table
