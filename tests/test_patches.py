"""Patch synthesis: on textures whose truth is known."""

import numpy as np
import pytest

from inpaint.patches import chosen, synthesize

KINDS = ["patches", "full"]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def weave(height, width):
    """A texture that repeats every 16 pixels."""
    tile = noise(16, 16).repeat(2, axis=0).repeat(2, axis=1)[:16, :16]
    return np.tile(tile, (-(-height // 16), -(-width // 16), 1))[:height, :width]


def torn(pixels, hole):
    """A picture whose hole has its mean colour, as a poor fill leaves it."""
    return np.where(hole[..., None], pixels[~hole].mean(axis=0).astype(np.uint8), pixels)


def refined(pixels, hole, kind):
    result = pixels.copy()
    for _ in synthesize(result, hole, kind):
        pass
    return result


def square(height, width, top, left, side):
    hole = np.zeros((height, width), bool)
    hole[top : top + side, left : left + side] = True
    return hole


@pytest.mark.parametrize("kind", KINDS)
def test_the_known_region_stays_and_the_result_is_always_the_same(kind):
    pixels, hole = noise(150, 210), square(150, 210, 30, 40, 50)
    hole[:, 100] = True
    result = refined(pixels, hole, kind)
    assert np.array_equal(result[~hole], pixels[~hole])
    assert not np.array_equal(result, pixels)
    assert np.array_equal(refined(pixels, hole, kind), result)


@pytest.mark.parametrize("kind", KINDS)
def test_a_torn_texture_is_woven_again(kind):
    pixels, hole = weave(160, 160), square(160, 160, 70, 60, 6)
    before = torn(pixels, hole)
    error = [
        np.abs(x.astype(int) - pixels)[hole].mean() for x in (before, refined(before, hole, kind))
    ]
    assert error[1] < 0.7 * error[0]


def test_nothing_known_as_a_whole_leaves_the_fill():
    pixels = noise(40, 40)
    hole = np.ones((40, 40), bool)
    hole[::6] = False
    for kind in KINDS:
        assert np.array_equal(refined(pixels, hole, kind), pixels)
    assert np.array_equal(refined(pixels[:3, :3], hole[:3, :3], "full"), pixels[:3, :3])


def test_auto_refines_what_a_network_fills():
    assert chosen("auto", True) == "patches"
    assert chosen("auto", False) == "none"
    assert chosen("full", False) == "full"
