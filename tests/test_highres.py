"""Windows cover the hole at a sensible scale, and what a generator sees in them is true."""

from math import ceil, floor

import numpy as np
import pytest

from inpaint.highres import SizeRule, Window, batches, enlarge, plan, read
from inpaint.mask import bounding_box
from inpaint.restore import restore

RULE = SizeRule(multiple=8, trained=256)
CENTRAL = SizeRule(fixed=128, trained=128, hole_share=0.5)


def hole_of(height, width, *boxes):
    hole = np.zeros((height, width), bool)
    for top, left, bottom, right in boxes:
        hole[top:bottom, left:right] = True
    return hole


def covered(windows, height, width, share=1.0):
    """Return which pixels lie, whole, in the central share of a window."""
    result = np.zeros((height, width), bool)
    for window in windows:
        top, left, bottom, right = window.box
        rim = (1 - share) / 2 * (bottom - top)
        rows = slice(max(0, ceil(top + rim)), max(0, floor(bottom - rim)))
        columns = slice(max(0, ceil(left + rim)), max(0, floor(right - rim)))
        result[rows, columns] = True
    return result


class Shades:
    """A filler whose windows are flat, each black or white in turn."""

    learned = False

    def __init__(self, rule):
        self.rule = rule
        self.count = 0

    def __call__(self, pixels, holes):
        shades = (self.count + np.arange(len(pixels))) % 2 * 255
        self.count += len(pixels)
        return np.broadcast_to(shades[:, None, None, None], pixels.shape).astype(np.uint8)


def steepest(hole, rule):
    """Return the largest step between neighbouring pixels of a hole that `Shades` has filled."""
    filler = Shades(rule)
    filled = restore(np.full((*hole.shape, 3), 128, np.uint8), hole, filler)[..., 0].astype(int)
    assert filler.count > 1
    down = np.abs(np.diff(filled, axis=0))[hole[1:] & hole[:-1]]
    across = np.abs(np.diff(filled, axis=1))[hole[:, 1:] & hole[:, :-1]]
    return max(down.max(initial=0), across.max(initial=0))


# --- the rule ---------------------------------------------------------------------------------


def test_a_rule_accepts_its_multiples_from_its_minimum_on():
    rule = SizeRule(multiple=8, minimum=32)
    assert rule.accepts(32, 64)
    assert not rule.accepts(24, 64)
    assert not rule.accepts(32, 65)
    assert [rule.fit(side) for side in (1, 32, 33)] == [32, 32, 40]


def test_a_fixed_rule_accepts_one_square():
    rule = SizeRule(fixed=128)
    assert rule.accepts(128, 128)
    assert not rule.accepts(256, 256)
    assert rule.fit(500) == 128


# --- planning ---------------------------------------------------------------------------------


def test_an_empty_hole_needs_no_window():
    assert plan(hole_of(100, 100), RULE) == []


def test_a_small_hole_gets_one_window_around_it_at_full_resolution():
    (window,) = plan(hole_of(1000, 1000, (480, 592, 512, 624)), RULE)
    assert window == Window((368, 480, 624, 736), (256, 256))


def test_a_window_is_moved_into_the_picture():
    (window,) = plan(hole_of(1000, 1000, (0, 990, 10, 1000)), RULE)
    assert window.box == (0, 744, 256, 1000)


def test_a_larger_hole_gets_context_of_its_own_size_by_scaling_down():
    (window,) = plan(hole_of(2000, 2000, (800, 800, 1000, 1000)), RULE)
    assert window.size == (256, 256)
    assert 1.5 <= window.scale <= 2
    assert window.box[0] <= 800 - 64
    assert window.box[2] >= 1000 + 64


def test_a_window_is_four_times_as_wide_as_a_hole_is_thick_that_is_thicker_than_trained():
    (window,) = plan(hole_of(3000, 3000, (1200, 1200, 1520, 1520)), RULE)
    assert window.size == (256, 256)
    assert window.box == (720, 720, 2000, 2000)


def test_a_window_is_as_wide_as_the_picture_at_most():
    (window,) = plan(hole_of(600, 900, (100, 300, 420, 620)), RULE)
    assert window.box == (-150, 0, 750, 900)


def test_a_window_is_not_scaled_for_a_little_more_context():
    (window,) = plan(hole_of(1000, 1000, (400, 400, 544, 560)), RULE)
    assert window.scale == 1
    assert window.box == (344, 352, 600, 608)


def test_a_picture_of_the_trained_size_is_given_as_it_is():
    (window,) = plan(hole_of(256, 256, (10, 10, 230, 230)), RULE)
    assert window == Window((0, 0, 256, 256), (256, 256))


def test_a_long_scratch_is_filled_at_full_resolution_by_several_windows():
    hole = hole_of(500, 2400, (200, 200, 230, 2200))
    windows = plan(hole, RULE)
    assert 9 <= len(windows) <= 14
    assert all(window.scale == 1 for window in windows)
    assert np.all(covered(windows, 500, 2400)[hole])


def test_neighbouring_windows_of_a_scratch_overlap():
    windows = sorted(plan(hole_of(500, 2400, (200, 200, 230, 2200)), RULE), key=lambda w: w.box[1])
    overlaps = [one.box[3] - two.box[1] for one, two in zip(windows, windows[1:], strict=False)]
    assert min(overlaps) >= 48


def test_a_thick_hole_is_scaled_down_until_its_window_sees_what_is_known():
    hole = hole_of(3000, 3000, (500, 500, 2300, 2300))
    windows = plan(hole, RULE)
    assert len(windows) == 1
    assert not all(read(np.zeros((3000, 3000, 3), np.uint8), hole, w)[1].all() for w in windows)


def test_a_scratch_beside_a_thick_hole_keeps_its_resolution():
    hole = hole_of(2000, 3000, (100, 100, 900, 900), (400, 900, 410, 2900))
    scales = sorted(window.scale for window in plan(hole, RULE))
    assert scales[-1] > 2
    assert scales[len(scales) // 2] == 1


def test_specks_share_windows():
    specks = [(10 * i, 40 * j, 10 * i + 3, 40 * j + 3) for i in range(15) for j in range(4)]
    assert len(plan(hole_of(1000, 1000, *specks), RULE)) == 1


def test_dust_everywhere_is_not_taken_for_a_thick_hole():
    hole = np.random.default_rng(0).random((1000, 1000)) < 0.02
    windows = plan(hole, RULE)
    assert {window.scale for window in windows} == {1}
    assert np.all(covered(windows, 1000, 1000)[hole])
    assert len(windows) <= 36


def test_specks_far_apart_do_not():
    assert len(plan(hole_of(1000, 1000, (10, 10, 13, 13), (900, 900, 903, 903)), RULE)) == 2


def test_a_small_picture_is_seen_at_its_own_scale_and_mirrored_beyond():
    (window,) = plan(hole_of(64, 64, (20, 20, 30, 30)), RULE)
    assert window == Window((-96, -96, 160, 160), (256, 256))


def test_windows_are_as_small_as_they_can_be_where_that_does_as_well():
    rule = SizeRule(trained=1024, smaller=True)
    assert plan(hole_of(64, 60, (20, 20, 30, 30)), rule) == [Window((0, -2, 64, 62), (64, 64))]
    (window,) = plan(hole_of(3000, 3000, (1000, 1000, 1100, 1100)), rule)
    assert window.size == (240, 240)  # the hole's seven blocks and 64 pixels on each side
    assert window.scale == 1
    (window,) = plan(hole_of(3000, 3000, (500, 500, 1900, 1900)), rule)
    assert window.size == (1024, 1024)


def test_a_fixed_size_is_met_whatever_the_hole():
    rule = SizeRule(fixed=128, trained=128)
    for box in ((5, 5, 6, 6), (50, 50, 400, 400), (0, 0, 499, 500)):
        assert {window.size for window in plan(hole_of(500, 500, box), rule)} == {(128, 128)}


def test_a_central_share_is_kept_for_the_hole_even_at_the_border():
    rule = SizeRule(fixed=128, trained=128, hole_share=0.5)
    (window,) = plan(hole_of(500, 500, (0, 0, 40, 40)), rule)
    top, left, bottom, right = window.box
    quarter = (bottom - top) / 4
    assert top + quarter <= 0
    assert left + quarter <= 0
    assert bottom - quarter >= 40
    assert right - quarter >= 40


def test_a_thick_hole_fits_in_the_central_share_of_its_window():
    hole = hole_of(2000, 2000, (96, 112, 1884, 1900))  # 80 % of the picture
    (window,) = plan(hole, CENTRAL)
    assert np.all(covered([window], 2000, 2000, 0.5)[hole])
    assert window.scale <= 2 * (1788 + 2 * 16) / 128  # no wider than the hole's blocks need
    _, seen = read(np.zeros((2000, 2000, 3), np.uint8), hole, window)
    assert not seen.all()


def test_a_hole_of_the_central_half_is_seen_at_full_resolution():
    (window,) = plan(hole_of(500, 500, (160, 208, 224, 272)), CENTRAL)
    assert window == Window((128, 176, 256, 304), (128, 128))


def test_a_scratch_keeps_its_resolution_where_a_central_share_is_filled():
    hole = hole_of(300, 1500, (130, 20, 150, 1480))
    windows = plan(hole, CENTRAL)
    assert {window.scale for window in windows} == {1}
    assert np.all(covered(windows, 300, 1500, 0.5)[hole])


@pytest.mark.parametrize("rule", [RULE, CENTRAL], ids=["whole window", "central half"])
@pytest.mark.parametrize(
    "boxes",
    [
        [(200, 100, 230, 1900)],  # a scratch
        [(100, 100, 1000, 340), (760, 340, 1000, 1900)],  # thick, around a corner
        [(100, 100, 1000, 400), (700, 400, 1000, 1900)],  # thicker than trained, likewise
        [(0, 0, 320, 2000)],  # with two sides of the picture
    ],
    ids=["scratch", "corner", "thick", "border"],
)
def test_between_windows_a_fill_has_no_edge(rule, boxes):
    assert steepest(hole_of(1300, 2000, *boxes), rule) < 72  # of 255, from black to white


def test_a_model_that_wants_the_whole_picture_gets_it_unscaled():
    hole = hole_of(301, 501, (5, 5, 6, 6), (290, 490, 300, 500))
    assert plan(hole, SizeRule(whole=True)) == [Window((0, 0, 301, 501), (301, 501))]
    assert plan(hole, SizeRule(whole=True, multiple=16)) == [Window((0, 0, 304, 512), (304, 512))]
    assert plan(hole, SizeRule(whole=True, fixed=64)) == [Window((0, 0, 501, 501), (64, 64))]


def test_batches_keep_the_order_and_their_bound():
    windows = [Window((0, i, 64, 64 + i), (64, 64)) for i in range(7)]
    windows += [Window((0, 0, 128, 128), (128, 128))] * 2
    found = list(batches(windows, pixels=3 * 64 * 64))
    assert [len(batch) for batch in found] == [3, 3, 1, 1, 1]
    assert [window for batch in found for window in batch] == windows


@pytest.mark.parametrize("side", [400, 560, 840])
def test_a_hole_about_as_long_as_thick_has_one_window_that_sees_all_around_it(side):
    rows, columns = np.ogrid[:2000, :2000]
    hole = (rows - 900) ** 2 + (columns - 800) ** 2 < (side / 2) ** 2
    (window,) = plan(hole, RULE)
    top, left, bottom, right = window.box
    assert window.size == (256, 256)
    assert top <= 900 - 0.7 * side
    assert left <= 800 - 0.7 * side
    assert bottom >= 900 + 0.7 * side
    assert right >= 800 + 0.7 * side


def test_windows_do_not_depend_on_how_large_the_photograph_is_around_them():
    boxes = [(300, 200, 420, 700), (500, 100, 505, 800), (650, 300, 660, 310)]
    expected = plan(hole_of(866, 1154, *boxes), RULE)
    for height, width in ((1732, 2309), (3000, 4000), (5477, 7302)):
        assert plan(hole_of(height, width, *boxes), RULE) == expected


def test_windows_are_as_many_as_the_hole_is_large():
    places = [(350 * row + 100, 700 * column + 100) for row in range(8) for column in range(4)]
    boxes = [(top, left, top + 100, left + 200) for top, left in places]
    for count in (1, 2, 4, 8, 16, 32):
        assert len(plan(hole_of(3000, 4000, *boxes[:count]), RULE)) == count


def test_many_specks_have_fewer_windows_than_a_grid_would_have():
    hole = np.zeros((3000, 4000), bool)
    for row, column in np.random.default_rng(1).integers(0, (2990, 3990), (150, 2)):
        hole[row : row + 8, column : column + 8] = True
    grid = {(row // 192, column // 192) for row, column in np.argwhere(hole)}
    assert len(plan(hole, RULE)) < 0.95 * len(grid)


# --- reading ----------------------------------------------------------------------------------


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_window_at_full_resolution_is_read_pixel_for_pixel():
    pixels, hole = noise(100, 120), hole_of(100, 120, (40, 50, 60, 70))
    seen, gap = read(pixels, hole, Window((20, 30, 84, 94), (64, 64)))
    assert np.array_equal(seen, pixels[20:84, 30:94])
    assert np.array_equal(gap, hole[20:84, 30:94])


def test_beyond_the_picture_it_is_mirrored_hole_and_all():
    pixels, hole = noise(20, 30), hole_of(20, 30, (0, 0, 2, 3))
    seen, gap = read(pixels, hole, Window((-10, -5, 54, 59), (64, 64)))
    assert np.array_equal(seen[10:30, 5:35], pixels)
    assert np.array_equal(seen[:10, 5:35], pixels[:10][::-1])
    assert np.array_equal(seen[10:30, :5], pixels[:, :5][:, ::-1])
    assert gap[8:12, 2:8].all()
    assert np.array_equal(gap[10:30, 5:35], hole)


@pytest.mark.parametrize("side", [65, 100, 128, 200, 333])
def test_scaled_down_every_pixel_touched_by_the_hole_is_hole(side):
    hole = np.random.default_rng(side).random((side, side)) < 0.002
    hole[side - 1, side - 1] = True
    _, gap = read(noise(side, side), hole, Window((0, 0, side, side), (64, 64)))
    scale = side / 64
    expected = np.zeros((64, 64), bool)
    for row, column in np.argwhere(hole):
        rows = slice(int(row / scale), int(np.ceil((row + 1) / scale)))
        columns = slice(int(column / scale), int(np.ceil((column + 1) / scale)))
        expected[rows, columns] = True
    assert np.array_equal(gap, expected)


@pytest.mark.parametrize("side", [100, 128, 300])
def test_scaled_down_nothing_of_the_hole_bleeds_into_what_is_known(side):
    pixels, hole = noise(side, side), np.random.default_rng(1).random((side, side)) < 0.05
    window = Window((0, 0, side, side), (64, 64))
    seen, gap = read(pixels, hole, window)
    other = pixels.copy()
    other[hole] = 255 - other[hole]
    assert np.array_equal(seen[~gap], read(other, hole, window)[0][~gap])
    painted = np.where(hole[..., None], np.uint8(255), np.uint8(30)) * np.ones(3, np.uint8)
    assert np.all(abs(read(painted, hole, window)[0][~gap].astype(int) - 30) <= 1)  # rounded


def test_a_fill_comes_back_to_the_size_of_its_box():
    fill = np.full((64, 64, 3), 77, np.uint8)
    assert np.all(enlarge(fill, Window((0, 0, 100, 100), (64, 64))) == 77)
    assert enlarge(fill, Window((0, 0, 100, 100), (64, 64))).shape == (100, 100, 3)
    assert enlarge(fill, Window((5, 5, 69, 69), (64, 64))) is fill


@pytest.mark.parametrize("seed", range(20))
def test_every_part_of_any_hole_is_covered(seed):
    generator = np.random.default_rng(seed)
    height, width = (int(side) for side in 2 ** generator.uniform(4, 11, 2))
    hole = generator.random((height, width)) < 10 ** generator.uniform(-5, -0.2)
    hole[generator.integers(height), generator.integers(width)] = True
    for rule in (RULE, SizeRule(fixed=64, trained=64), SizeRule(multiple=32, trained=512)):
        windows = plan(hole, rule)
        assert np.all(covered(windows, height, width)[hole])
        assert all(rule.accepts(*window.size) for window in windows)
        assert all(window.scale >= 1 for window in windows)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_any_box_is_covered_by_the_central_share_of_windows(seed, share):
    generator = np.random.default_rng(seed)
    height, width = (int(side) for side in generator.integers(64, 2001, 2))
    part = (0, 0.8, generator.uniform(0, 0.8))[seed % 3]  # one pixel, the most, and between
    rows = max(1, min(height, round((part * height * width) ** 0.5 * generator.uniform(0.6, 1.6))))
    columns = max(1, min(width, round(part * height * width / rows)))
    top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)
    hole = hole_of(height, width, (top, left, top + rows, left + columns))
    for rule in (
        SizeRule(fixed=128, trained=128, hole_share=share),
        SizeRule(multiple=32, trained=256, hole_share=share),
    ):
        windows = plan(hole, rule)
        assert np.all(covered(windows, height, width, share)[hole])
        assert all(rule.accepts(*window.size) for window in windows)


def test_a_window_is_never_empty():
    generator = np.random.default_rng(3)
    hole = generator.random((900, 1200)) < 0.0005
    for window in plan(hole, RULE):
        top, left, bottom, right = window.box
        assert bounding_box(hole[top:bottom, left:right]) is not None
