"""Fills go into the hole and nowhere else."""

import numpy as np
import pytest

from inpaint.composite import Canvas, composite
from inpaint.highres import Window


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)


@pytest.fixture
def hole():
    hole = np.zeros((60, 90), bool)
    hole[20:40, 10:80] = True
    return hole


def plain(shape, value):
    return np.full((*shape, 3), value, np.uint8)


def test_a_composite_takes_the_fill_in_the_hole_only(pixels, hole):
    result = composite(pixels, plain((60, 90), 9), hole)
    assert np.array_equal(result[~hole], pixels[~hole])
    assert np.all(result[hole] == 9)


def test_a_composite_of_different_sizes_is_a_mistake(pixels, hole):
    with pytest.raises(ValueError, match="disagree"):
        composite(pixels, plain((60, 89), 9), hole)


def test_one_window_gives_its_fill_exactly(pixels, hole):
    canvas = Canvas(pixels, hole)
    fill = np.random.default_rng(1).integers(0, 256, (60, 90, 3), np.uint8)
    canvas.lay(Window((0, 0, 60, 90), (60, 90)), fill)
    assert np.array_equal(canvas.pixels, composite(pixels, fill, hole))


def test_a_window_that_reaches_beyond_the_picture_is_cut(pixels, hole):
    canvas = Canvas(pixels, hole)
    fill = np.random.default_rng(1).integers(0, 256, (96, 96, 3), np.uint8)
    canvas.lay(Window((-18, -3, 78, 93), (96, 96)), fill)
    assert np.array_equal(canvas.pixels, composite(pixels, fill[18:78, 3:93], hole))


def test_overlapping_windows_change_over_without_an_edge(pixels, hole):
    canvas = Canvas(pixels, hole)
    canvas.lay(Window((0, 0, 60, 60), (60, 60)), plain((60, 60), 50))
    canvas.lay(Window((0, 30, 60, 90), (60, 60)), plain((60, 60), 200))
    row = canvas.pixels[30, 10:80, 0].astype(int)
    assert np.all(row[:20] == 50)
    assert np.all(row[50:] == 200)
    assert 0 <= np.diff(row).min() <= np.diff(row).max() <= 6
    assert np.array_equal(canvas.pixels[~hole], pixels[~hole])


def test_windows_that_agree_leave_no_trace_of_their_borders(pixels, hole):
    fill = np.random.default_rng(1).integers(0, 256, (60, 90, 3), np.uint8)
    canvas = Canvas(pixels, hole)
    for left in (0, 10, 20, 30):
        canvas.lay(Window((0, left, 60, left + 60), (60, 60)), fill[:, left : left + 60])
    assert np.array_equal(canvas.pixels, composite(pixels, fill, hole))


def test_a_window_scaled_down_gives_way_to_a_sharper_one(pixels, hole):
    canvas = Canvas(pixels, hole)
    canvas.lay(Window((0, 0, 90, 90), (15, 15)), plain((90, 90), 0))
    canvas.lay(Window((0, 15, 60, 75), (60, 60)), plain((60, 60), 200))
    assert canvas.pixels[30, 45, 0] > 190


def test_only_the_central_share_of_a_window_is_used_where_the_rule_says_so(pixels, hole):
    canvas = Canvas(pixels, hole, hole_share=0.5)
    canvas.lay(Window((0, 15, 60, 75), (60, 60)), plain((60, 60), 7))
    assert np.all(canvas.pixels[20:40, 30:60] == 7)
    assert np.array_equal(canvas.pixels[:, :30], pixels[:, :30])
    assert np.array_equal(canvas.pixels[:, 60:], pixels[:, 60:])


def test_a_canvas_writes_the_pixels_it_is_given_in_the_hole_only(pixels, hole):
    before = pixels.copy()
    canvas = Canvas(pixels, hole, feather=4)
    canvas.lay(Window((0, 0, 60, 90), (60, 90)), plain((60, 90), 1))
    canvas.feather()
    assert canvas.pixels is pixels
    assert np.array_equal(pixels[~hole], before[~hole])
    assert np.all(pixels[24:36, 14:76] == 1)


def test_feather_blends_the_rim_and_nothing_else(hole):
    pixels = plain((60, 90), 0)
    canvas = Canvas(pixels, hole, feather=8)
    canvas.lay(Window((0, 0, 60, 90), (60, 90)), plain((60, 90), 200))
    canvas.feather()
    profile = canvas.pixels[20:40, 45, 0].astype(int)
    assert np.all(np.diff(profile[:9]) >= 0)
    assert profile[0] < 50
    assert np.all(profile[8:12] == 200)
    assert not canvas.pixels[~hole].any()
