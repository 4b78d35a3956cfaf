"""Prepare, fill, finish: with fillers that paint, so that every pixel can be accounted for."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inpaint.errors import MaskFull
from inpaint.highres import SizeRule
from inpaint.mask import grow
from inpaint.patches import synthesize
from inpaint.restore import Finish, finish, prepare, restore

GOLDEN = Path(__file__).parent / "golden"
COLOUR = (200, 100, 50)
GRAY = 124  # its luminance


class Painter:
    """Paints the hole in one colour and leaves nonsense around it, as generators may."""

    learned = False

    def __init__(self, rule):
        self.rule = rule
        self.sizes = []

    def __call__(self, pixels, holes):
        assert pixels.shape == (*holes.shape, 3)
        assert all(self.rule.accepts(*hole.shape) for hole in holes)
        self.sizes += [hole.shape for hole in holes]
        fills = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
        fills[holes] = COLOUR
        return fills


class Mean:
    """Fills with the mean colour of what is known in the window."""

    rule = SizeRule(multiple=4, trained=32)
    learned = False

    def __call__(self, pixels, holes):
        fills = np.empty_like(pixels)
        for fill, window, hole in zip(fills, pixels, holes, strict=True):
            fill[:] = np.rint(window[~hole].mean(axis=0))
        return fills


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def drawn(kind, height, width, seed):
    """A hole of each kind that people make."""
    generator = np.random.default_rng(seed)
    hole = np.zeros((height, width), bool)
    if kind == "pixel":
        hole[generator.integers(height), generator.integers(width)] = True
    elif kind == "boxes":
        for _ in range(generator.integers(1, 12)):
            top, left = generator.integers(height), generator.integers(width)
            down, across = (
                generator.integers(1, height // 3 + 2),
                generator.integers(1, width // 3 + 2),
            )
            hole[top : top + down, left : left + across] = True
    elif kind == "dust":
        hole |= generator.random((height, width)) < 10 ** generator.uniform(-4, -1)
        hole[0, 0] = True
    elif kind == "scratch":
        along = np.linspace(0, 1, 2 * (height + width))
        rows = along * (height - 1)
        columns = (0.5 + 0.45 * np.sin(generator.uniform(1, 9) * along)) * (width - 1)
        hole[rows.astype(int), columns.astype(int)] = True
        hole = grow(hole, int(generator.integers(0, 4)))
    else:  # four fifths of the picture
        hole[int(height * 0.1) : int(height * 0.99), int(width * 0.1) : int(width * 0.99)] = True
    hole[-1, -1] = False
    return hole


RULES = {
    "compact": SizeRule(multiple=8, trained=256),
    "large": SizeRule(multiple=8, trained=512),
    "fixed": SizeRule(fixed=64, trained=64),
    "centre": SizeRule(fixed=128, trained=128, hole_share=0.5),
    "whole": SizeRule(minimum=2, whole=True),
    "whole in steps": SizeRule(multiple=32, whole=True),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["pixel", "boxes", "dust", "scratch", "most"])
@pytest.mark.parametrize("size", [(16, 16), (64, 300), (257, 190), (512, 512), (900, 2000)])
def test_the_known_region_returns_unchanged_and_the_hole_is_filled(rule, kind, size):
    seed = sum(size)
    pixels, hole = noise(*size), drawn(kind, *size, seed)
    before = pixels.copy()
    filler = Painter(RULES[rule])
    result = restore(pixels, hole, filler)
    assert result.dtype == np.uint8
    assert np.array_equal(result[~hole], before[~hole])
    assert np.array_equal(pixels, before)
    assert filler.sizes
    scaled = any(w.scale != 1 for w in prepare(pixels, hole, filler.rule).windows)
    off = np.abs(result[hole].astype(int) - COLOUR).max(axis=1)
    if scaled:  # the rim is drawn between the fill and its neighbours
        assert off.mean() < 30
    else:
        assert off.max() == 0


@pytest.mark.parametrize("feather", [1, 4, 9])
def test_feather_changes_nothing_beyond_the_hole_and_all_of_what_was_asked_for(feather):
    pixels, asked = noise(300, 400), drawn("boxes", 300, 400, 5)
    hole = grow(asked, feather)
    result = restore(pixels, hole, Painter(RULES["whole"]), feather=feather)
    assert np.array_equal(result[~hole], pixels[~hole])
    assert np.all(result[asked] == COLOUR)
    rim = result[hole & ~asked]
    assert not np.all(rim == COLOUR)


def test_feather_of_a_fill_lies_between_picture_and_fill():
    pixels = np.zeros((100, 100, 3), np.uint8)
    asked = np.zeros((100, 100), bool)
    asked[40:60, 40:60] = True
    result = restore(pixels, grow(asked, 8), Painter(RULES["compact"]), feather=8)
    profile = result[50, 32:41, 0].astype(int)
    assert np.all(np.diff(profile) >= 0)
    assert profile[0] < 40
    assert profile[-1] == GRAY


def test_an_empty_hole_gives_the_picture_back():
    pixels = noise(50, 60)
    filler = Painter(RULES["compact"])
    assert np.array_equal(restore(pixels, np.zeros((50, 60), bool), filler), pixels)
    assert filler.sizes == []


def test_a_hole_that_covers_everything_is_refused_by_name():
    with pytest.raises(MaskFull):
        prepare(noise(50, 60), np.ones((50, 60), bool), RULES["compact"])


def test_gray_pixels_that_share_their_plane_are_filled_too():
    plane = noise(70, 80)[..., 0]
    pixels = np.broadcast_to(plane[..., None], (70, 80, 3))
    hole = drawn("boxes", 70, 80, 1)
    result = restore(pixels, hole, Painter(RULES["compact"]))
    assert np.array_equal(result[~hole], pixels[~hole])
    assert np.all(result[hole] == GRAY)


def test_pixels_under_the_hole_do_not_matter():
    pixels, hole = noise(400, 700), drawn("boxes", 400, 700, 3)
    other = np.where(hole[..., None], 255 - pixels, pixels)
    assert np.array_equal(restore(pixels, hole, Mean()), restore(other, hole, Mean()))


def test_in_a_plain_picture_windows_leave_no_trace():
    pixels = np.full((300, 1500, 3), (90, 120, 30), np.uint8)
    hole = drawn("scratch", 300, 1500, 4) | drawn("boxes", 300, 1500, 4)
    assert np.array_equal(restore(pixels, hole, Mean()), pixels)


def test_prepare_and_finish_are_restore_in_two_steps():
    pixels, hole = noise(300, 900), drawn("scratch", 300, 900, 2)
    plan = prepare(pixels, hole, Mean.rule, feather=0)
    seen, holes = plan.inputs(plan.windows)
    assert seen.shape == (len(plan.windows), 32, 32, 3)
    assert np.array_equal(finish(plan, Mean()(seen, holes)), restore(pixels, hole, Mean()))


def test_fills_are_written_into_the_plans_own_pixels():
    pixels, hole = noise(300, 900), drawn("scratch", 300, 900, 2)
    before = pixels.copy()
    plan = prepare(pixels, hole, RULES["compact"])
    canvas = Finish(plan)
    for fill in Painter(plan.rule)(*plan.inputs(plan.windows)):
        with pytest.raises(ValueError, match="too few"):
            canvas.pixels()
        canvas.lay(fill)
    assert canvas.pixels() is pixels
    assert np.array_equal(pixels[~hole], before[~hole])
    assert np.all(pixels[hole] == COLOUR)


def test_pixels_that_are_read_only_are_copied_and_stay_as_they_are():
    pixels, hole = noise(100, 100), drawn("boxes", 100, 100, 1)
    before = pixels.copy()
    pixels.flags.writeable = False
    filler = Painter(RULES["compact"])
    plan = prepare(pixels, hole, filler.rule)
    assert np.all(finish(plan, filler(*plan.inputs(plan.windows)))[hole] == COLOUR)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("rule", ["fixed", "centre"])
def test_windows_are_read_the_same_whether_or_not_others_are_laid_already(rule):
    pixels, hole = noise(600, 900), drawn("scratch", 600, 900, 6)
    hole[100:400, 100:420] = True
    plan = prepare(pixels.copy(), hole, RULES[rule])
    assert any(window.scale != 1 for window in plan.windows)
    seen, holes = plan.inputs(plan.windows)
    canvas = Finish(plan)
    for number, fill in enumerate(np.random.default_rng(1).integers(0, 256, seen.shape, np.uint8)):
        canvas.lay(fill)
        again, gaps = plan.inputs(plan.windows[number : number + 3])
        assert np.array_equal(gaps, holes[number : number + 3])
        assert np.array_equal(again[~gaps], seen[number : number + 3][~gaps])


def test_laying_and_reading_in_two_threads_give_what_one_thread_gives():
    pixels, hole = noise(700, 900), drawn("boxes", 700, 900, 3) | drawn("scratch", 700, 900, 3)
    expected = restore(pixels, hole, Mean())
    for _ in range(5):
        plan = prepare(pixels.copy(), hole, Mean.rule)
        canvas = Finish(plan)
        with ThreadPoolExecutor(1) as other:
            laid = [
                other.submit(canvas.lay, Mean()(*plan.inputs([window]))[0])
                for window in plan.windows
            ]
        for each in laid:
            each.result()
        assert np.array_equal(canvas.pixels(), expected)


def test_fills_that_are_missing_or_of_another_size_are_a_mistake():
    plan = prepare(noise(100, 100), drawn("pixel", 100, 100, 1), RULES["compact"])
    with pytest.raises(ValueError, match="too few"):
        finish(plan, [])
    with pytest.raises(ValueError, match="too many"):
        finish(plan, [np.zeros((256, 256, 3), np.uint8)] * 2)
    with pytest.raises(ValueError, match="window"):
        finish(plan, [np.zeros((100, 100, 3), np.uint8)])


def test_a_hole_that_does_not_belong_to_the_pixels_is_a_mistake():
    with pytest.raises(ValueError, match="hole"):
        prepare(noise(100, 100), np.zeros((100, 99), bool), RULES["compact"])
    with pytest.raises(ValueError, match="hole"):
        prepare(noise(100, 100), np.zeros((100, 100), np.uint8), RULES["compact"])


class Learned(Mean):
    """The same, as if a network did it."""

    learned = True


@pytest.mark.parametrize("feather", [0, 3])
def test_fills_of_networks_are_refined_before_they_are_feathered(feather):
    pixels, asked = noise(90, 120), np.zeros((90, 120), bool)
    asked[30:50, 40:60] = True
    hole = grow(asked, feather)
    plain = restore(pixels, hole, Mean(), feather=feather)
    refined = restore(pixels, hole, Learned(), feather=feather)
    assert np.array_equal(refined[~hole], pixels[~hole])
    expected = restore(pixels, hole, Mean())
    for _ in synthesize(expected, hole, "patches"):
        pass
    assert np.array_equal(refined[asked], expected[asked])
    assert not np.array_equal(refined[asked], plain[asked])
    for filler in (Mean(), Learned()):
        for refine, same in (("none", plain), ("patches", refined)):
            result = restore(pixels, hole, filler, feather=feather, refine=refine)
            assert np.array_equal(result, same)


def golden_case():
    """A gradient with a wide hole and a scratch, in several overlapping windows of 32 pixels."""
    rows, columns = np.mgrid[:64, :64]
    pixels = np.dstack([rows * 4, columns * 4, 255 - 2 * (rows + columns)]).astype(np.uint8)
    hole = np.zeros((64, 64), bool)
    hole[8:28, 6:30] = True
    hole[44:48, 4:62] = True
    return pixels, hole


def test_the_golden_composite_is_reproduced():
    pixels, hole = golden_case()
    expected = np.asarray(Image.open(GOLDEN / "composite.png"))
    assert np.array_equal(restore(pixels, grow(hole, 2), Mean(), feather=2), expected)
