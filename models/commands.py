"""`inpaint import`: published weights become a checkpoint of ours."""

import re
from pathlib import Path
from typing import Annotated

import torch
import typer

from inpaint.errors import BadCheckpoint

from . import published
from .checkpoint import SUFFIX, Header, save

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of a file, and in requests
_ID = r"[A-Za-z0-9.+-]+"
LICENSE = re.compile(rf"{_ID}( (AND|OR|WITH) {_ID})*")


def _known(format: str) -> str:
    if format not in published.FORMATS:
        raise typer.BadParameter(f"{format!r} is none of {', '.join(published.FORMATS)}.")
    return format


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise typer.BadParameter("letters, digits, '.', '_' and '-' are accepted.")
    return name


def _licensed(license: str) -> str:
    if not LICENSE.fullmatch(license):
        raise typer.BadParameter(
            "an SPDX identifier is required, such as CC-BY-NC-4.0. Weights have terms of their "
            "own, whatever the code's are: they stand where the file was had. Terms without an "
            "identifier are LicenseRef-NAME; --license-note says what they are."
        )
    return license


def _folder(folder: Path) -> Path:
    """Make the folder that is written to before the work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{folder} cannot be made: {error.strerror}.") from error
    return folder


def import_weights(
    format: Annotated[
        str,
        typer.Argument(
            help=f"The layout: {', '.join(published.FORMATS)}.", metavar="FORMAT", callback=_known
        ),
    ],
    file: Annotated[
        Path,
        typer.Argument(
            help="The published state dict.", metavar="FILE", exists=True, dir_okay=False
        ),
    ],
    *,
    name: Annotated[str, typer.Option(help="What the model is to be called.", callback=_name)],
    license: Annotated[
        str, typer.Option(help="Of the weights, SPDX; required.", callback=_licensed)
    ] = "",
    license_note: Annotated[str, typer.Option(help="What the licence's name does not say.")] = "",
    source: Annotated[str, typer.Option(help="Where the file was had.")] = "",
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.", callback=_folder)] = Path(),
    half: Annotated[bool, typer.Option(help="Store weights as float16.")] = False,
) -> None:
    """Make a checkpoint of published weights; nothing in the file is run."""
    generator = published.read(file, format)
    header = Header.of(
        generator,
        name=name,
        license=license,
        license_note=license_note,
        training={"imported": published.origin(file, format, source)},
    )
    path = out / f"{name}{SUFFIX}"
    try:
        save(path, generator, header, dtype=torch.float16 if half else torch.float32)
    except ValueError as error:  # values beyond float16
        raise BadCheckpoint(f"{error}; --no-half keeps them") from error
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be written: {error.strerror}") from error
    parameters = sum(tensor.numel() for tensor in generator.parameters())
    typer.echo(
        f"{path}: {header.architecture}, {parameters:,} parameters, "
        f"{path.stat().st_size / 1e6:.1f} MB"
    )
