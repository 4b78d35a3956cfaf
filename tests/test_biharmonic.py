"""The smooth reference of scores."""

import numpy as np
import pytest

from inpaint.restore import restore
from training.biharmonic import Biharmonic

pytest.importorskip("scipy", reason="comes with the extra `demo`")


def test_a_plane_is_continued_exactly() -> None:
    down, across = np.mgrid[:40, :56]
    pixels = np.stack([2 * down + across, across * 3, 100 - down], axis=-1).astype(np.uint8)
    hole = np.zeros((40, 56), bool)
    hole[10:25, 20:44] = True
    damaged = np.where(hole[..., None], np.uint8(255), pixels)
    assert np.array_equal(restore(damaged, hole, Biharmonic()), pixels)


def test_it_bends_where_a_harmonic_fill_is_flat() -> None:
    across = np.linspace(-1, 1, 61)
    pixels = np.repeat((200 * across**2).astype(np.uint8)[None, :, None], 30, axis=0).repeat(3, 2)
    hole = np.zeros((30, 61), bool)
    hole[:, 20:41] = True
    filled = restore(pixels, hole, Biharmonic())
    assert np.abs(filled.astype(int) - pixels).max() < 30  # a straight bridge errs by more
    assert filled[15, 30, 0] < pixels[15, 20, 0]
