"""Random holes: kinds, shares, seeds and polarity."""

import numpy as np
import pytest
from PIL import Image

from inpaint.errors import BadData
from training import holes
from training.recipe import Holes


@pytest.fixture
def mask_file(tmp_path):
    """White (the hole) in the left quarter."""
    pixels = np.zeros((40, 40), np.uint8)
    pixels[:, :10] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


KINDS = {
    "strokes": Holes(strokes=1, boxes=0),
    "boxes": Holes(strokes=0, boxes=1),
    "files": Holes(strokes=0, boxes=0, files=1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_draws_the_same_hole(kind, mask_file):
    one, two, other = (
        [holes.draw(KINDS[kind], 64, np.random.default_rng(seed), [mask_file]) for seed in seeds]
        for seeds in (range(8), range(8), range(100, 108))
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hole_is_a_bool_square_with_some_of_both(kind, mask_file):
    for seed in range(30):
        hole = holes.draw(KINDS[kind], 48, np.random.default_rng(seed), [mask_file])
        assert hole.dtype == np.bool_
        assert hole.shape == (48, 48)
        assert 0 < hole.mean() < 1


def test_the_share_of_the_hole_stays_within_the_recipe():
    wanted = Holes(smallest=0.1, largest=0.3)
    shares = [holes.draw(wanted, 64, np.random.default_rng(seed)).mean() for seed in range(150)]
    assert min(shares) >= 0.1
    assert max(shares) <= 0.3


def test_shares_of_the_default_holes_reach_every_part_of_their_range():
    shares = [holes.draw(Holes(), 64, np.random.default_rng(seed)).mean() for seed in range(300)]
    counts, _ = np.histogram(shares, bins=[0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert counts.sum() == 300
    assert counts.min() >= 5


def test_boxes_are_rectangles_within_the_square():
    rng = np.random.default_rng(0)
    hole = holes.boxes(64, rng)
    rows, columns = hole.any(1), hole.any(0)
    assert rows.sum() >= 8
    assert columns.sum() >= 8


def test_white_in_a_mask_file_is_the_hole(mask_file):
    found = {
        tuple(map(tuple, np.argwhere(hole)[[0, -1]]))
        for hole in (holes.from_file(mask_file, 20, np.random.default_rng(s)) for s in range(40))
    }
    left, right = ((0, 0), (19, 4)), ((0, 15), (19, 19))
    top, bottom = ((0, 0), (4, 19)), ((15, 0), (19, 19))
    assert found == {left, right, top, bottom}


def test_mask_files_that_are_wanted_and_not_given_are_asked_for():
    with pytest.raises(BadData, match="--masks"):
        holes.draw(KINDS["files"], 32, np.random.default_rng(0))


def test_a_recipe_without_any_kind_is_refused():
    nothing = Holes(strokes=0, boxes=0, files=0)
    with pytest.raises(BadData, match="draws no holes"):
        holes.draw(nothing, 32, np.random.default_rng(0))


def test_a_mask_file_without_a_hole_is_refused_by_its_name(tmp_path):
    Image.new("L", (32, 32)).save(tmp_path / "black.png")
    with pytest.raises(BadData, match=r"black\.png cannot be used"):
        holes.from_file(tmp_path / "black.png", 20, np.random.default_rng(0))
