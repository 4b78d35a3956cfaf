"""A window's fill does not depend on what shares its batch: for every architecture and engine."""

from pathlib import Path

import numpy as np
import pytest

import models
from models.checkpoint import load, read_header
from models.filler import Filler, TorchFiller, fastest_filler
from models.generator import Generator
from models.registry import GENERATORS, architecture_of, create

FOUND = sorted((Path(models.__file__).parent / "checkpoints").glob("*.safetensors"))
SHIPPED = [path for path in FOUND if read_header(path).detection is None]
NAMES = [*(path.stem for path in SHIPPED), "navier-stokes", "telea"]


def generator_of(name: str) -> Generator:
    """Return a shipped network with its weights, or a classical generator."""
    path = SHIPPED[0].with_name(f"{name}.safetensors")
    return load(path)[0] if path in SHIPPED else create(name, {})


def windows(filler: Filler) -> tuple[np.ndarray, np.ndarray]:
    """Return three windows unlike each other, with a small, a large and a scattered hole."""
    side = min(256, filler.rule.fit(filler.rule.trained))
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:side, 0:side]
    ramps = np.stack([rows, columns, (rows + columns) // 2], axis=-1) * 255 // side
    noise = random.integers(0, 256, (side, side, 3))
    pixels = np.stack([ramps, 255 - ramps // 2, (ramps + noise) // 2]).astype(np.uint8)
    holes = np.zeros((3, side, side), bool)
    middle = holes[:, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4]  # holes may lie there
    middle[0, 5:20, 7:30] = True
    middle[1, 4:-4, 4:-4] = True
    middle[2] = random.random(middle[2].shape) < 0.1
    return pixels, holes


def test_every_architecture_is_looked_at():
    assert {architecture_of(generator_of(name)) for name in NAMES} == set(GENERATORS)


@pytest.mark.parametrize("make", [fastest_filler, TorchFiller])
@pytest.mark.parametrize("name", NAMES)
def test_three_windows_at_once_are_filled_as_one_by_one(name, make):
    filler = make(generator_of(name))
    pixels, holes = windows(filler)

    together = filler(pixels, holes).astype(int)
    alone = np.concatenate([filler(pixels[i : i + 1], holes[i : i + 1]) for i in range(3)])

    assert np.abs(together - alone)[holes].max() <= 1
    assert all(alone[i][holes[i]].std() > 1 for i in range(3))
