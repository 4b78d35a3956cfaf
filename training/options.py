"""Options that several commands share, and the folders they write to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer

from inpaint.errors import BadData


def _usable(device: str) -> str:
    """Refuse, as wrong usage, a device that this PyTorch cannot compute on."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the second: a PyTorch without CUDA
        raise typer.BadParameter(f"{device} cannot be used here; cpu always can.") from error
    return device


Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", callback=_usable)]
Threads = Annotated[int | None, typer.Option(help="CPU threads.", min=1)]
Masks = Annotated[Path | None, typer.Option(help="Folder of mask files, white = hole.")]
Silhouettes = Annotated[
    Path | None, typer.Option(help="Folder of shapes of objects, white = object.")
]


def make_folder(folder: Path) -> Path:
    """Make a folder for what is written, and return it.

    Raises:
        BadData: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadData(f"the folder {folder} cannot be made: {error.strerror}") from error
    return folder


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Refuse what cannot be written, a full disk for example, by the name of the file or folder.

    Raises:
        BadData: in the place of what the disk raises.
    """
    try:
        yield
    except OSError as error:
        raise BadData(f"{path} cannot be written: {error.strerror or error}") from error
