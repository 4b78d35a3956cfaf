"""What a run needs to go on after it was killed, bit for bit. Never served: checkpoints are."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from inpaint.errors import BadData

FILE = "state.pt"


def save(folder: Path, state: dict[str, Any]) -> None:  # Any: optimizer states are nested dicts
    """Write the state under a temporary name, force it to disk, and rename it over the last one.

    Raises:
        OSError: if it cannot be written; the last one is as it was.
    """
    temporary = folder / f".{FILE}.{os.getpid()}"
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / FILE)
    except RuntimeError as error:  # what PyTorch's writer makes of a full disk
        raise OSError(f"training state: {_first_line(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def load(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the saved state, or None where there is none.

    Raises:
        BadData: if the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError, ValueError) as error:
        reason = _first_line(error) or "it is empty"
        raise BadData(
            f"training state {path} is damaged: {reason}; move it away to start anew"
        ) from error
    return state


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Refuse what the folder's state holds that was made otherwise, and say which file it is.

    Raises:
        BadData: in the place of what strange keys, types and shapes raise.
    """
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise BadData(
            f"training state {folder / FILE} is not of this run and version: "
            f"{_first_line(error)}; use another folder"
        ) from error


def _first_line(error: Exception) -> str:
    """Return what an error says first: PyTorch's are followed by advice to programmers."""
    return str(error).partition("\n")[0]


def average(
    averaged: dict[str, Tensor], current: dict[str, Tensor], *, decay: float, step: int
) -> None:
    """Move `averaged` towards `current`, in place: an exponential moving average of the weights.

    The decay grows with the step from 0 towards `decay`, so that the start is soon forgotten.
    """
    share = 1 - min(decay, step / (step + 50))
    for name, value in averaged.items():
        if value.is_floating_point():
            value.lerp_(current[name], share)
        else:
            value.copy_(current[name])
