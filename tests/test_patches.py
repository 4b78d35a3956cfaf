"""Patch synthesis: on textures whose truth is known."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from inpaint.mask import grow
from inpaint.patches import KNOWN, ROUNDS, TILE, WIDEST, chosen, synthesize

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


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_better_than_a_blurred_fill_and_has_no_seams_between_tiles(kind):
    pixels, hole = weave(80, 2 * TILE), np.zeros((80, 2 * TILE), bool)
    hole[34:44, 40:-40] = True
    blurred = np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2)))
    before = np.where(hole[..., None], blurred, pixels)
    errors = [
        np.abs(x.astype(int) - pixels)[34:44].mean(axis=(0, 2))
        for x in (before, refined(before, hole, kind))
    ]
    assert errors[1].mean() < 0.1 * errors[0].mean()
    assert errors[1][TILE - 16 : TILE + 16].mean() < 0.1 * errors[0].mean()


@pytest.mark.parametrize("kind", KINDS)
def test_a_speck_in_a_large_picture_depends_on_what_is_near_alone(kind):
    pixels, hole = noise(1200, 1300), square(1200, 1300, 500, 600, 7)
    result = refined(pixels, hole, kind)
    far = ~grow(hole, WIDEST)
    other = np.where(far[..., None], 255 - pixels, pixels)
    assert np.array_equal(refined(other, hole, kind)[hole], result[hole])


@pytest.mark.parametrize("kind", KINDS)
def test_far_apart_holes_do_not_matter_to_each_other(kind):
    pixels, hole = noise(300, 1400), square(300, 1400, 100, 90, 30)
    alone = refined(pixels, hole, kind)
    both = refined(pixels, hole | square(300, 1400, 100, 1300, 30), kind)
    assert np.array_equal(both[hole], alone[hole])


@pytest.mark.parametrize("size", [(5, 400), (17, 17), (18, 40), (64, 31)])
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_any_size_are_taken(size, kind):
    pixels, hole = noise(*size), square(*size, 2, 3, 4)
    hole[:, -2:] = True
    result = refined(pixels, hole, kind)
    assert np.array_equal(result[~hole], pixels[~hole])


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_whose_rows_do_not_follow_one_another_are_written_in_place(kind):
    wide, hole = noise(120, 260), square(120, 130, 40, 50, 20)
    expected = refined(np.ascontiguousarray(wide[:, ::2]), hole, kind)
    for _ in synthesize(wide[:, ::2], hole, kind):
        pass
    assert np.array_equal(wide[:, ::2], expected)


def test_gray_stays_gray():
    gray = np.repeat(noise(100, 100)[..., :1], 3, axis=2)
    for kind in KINDS:
        result = refined(gray, square(100, 100, 30, 30, 30), kind)
        assert not np.array_equal(result, gray)
        assert np.array_equal(result, np.repeat(result[..., :1], 3, axis=2))


def test_a_hole_too_deep_for_the_search_keeps_its_fill_in_the_middle():
    pixels, hole = noise(WIDEST + 3 * TILE, 40), np.ones((WIDEST + 3 * TILE, 40), bool)
    hole[:40] = False
    result = refined(pixels, hole, "patches")
    assert np.array_equal(result[-TILE:], pixels[-TILE:])
    assert not np.array_equal(result[40:TILE], pixels[40:TILE])


@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_whole_numbers_that_float32_holds(kind):
    for each in ROUNDS[kind]:
        samples = len(range((each.size - 1) % each.apart // 2, each.size, each.apart)) ** 2
        assert 3 * samples * KNOWN * (64 * 64 + 2 * 64 * 64) < 2**24


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
