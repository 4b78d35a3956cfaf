"""Measures of found damage, against a definition written out pixel by pixel."""

import numpy as np
import pytest

from training.damage import Damaged, render
from training.damage_baselines import BASELINES
from training.damage_scores import TOLERANCE, DamageScores, areas, score, to_levels
from training.injuries import KINDS, UNSEEN

OFFSETS = np.argwhere(TOLERANCE) - 2


def labelled(mask, ignore=None, kind="dust"):
    blank = np.zeros((*mask.shape, 3), np.uint8)
    ignore = np.zeros_like(mask) if ignore is None else ignore & ~mask
    return Damaged(blank, blank, mask, ignore, mask * np.uint8(KINDS.index(kind)))


def near(wanted, y, x):
    """Whether any pixel within the tolerance is wanted."""
    places = ((y + down, x + across) for down, across in OFFSETS)
    height, width = wanted.shape
    return any(wanted[i, j] for i, j in places if 0 <= i < height and 0 <= j < width)


def by_definition(cases, threshold):
    """Precision and recall at a threshold, counted one pixel at a time."""
    right = predicted = found = damaged = 0
    for levels, case in cases:
        flagged = (levels >= threshold) & ~case.ignore
        for y, x in np.argwhere(flagged):
            predicted += 1
            right += near(case.mask, y, x)
        for y, x in np.argwhere(case.mask):
            damaged += 1
            found += near(flagged, y, x)
    return right / max(predicted, 1), found / damaged


@pytest.fixture
def cases():
    """Three small pictures of random damage and random answers."""
    rng = np.random.default_rng(1)
    pairs = []
    for shape in ((17, 23), (9, 31), (20, 20)):
        mask, ignore = rng.random(shape) < 0.04, rng.random(shape) < 0.2
        levels = (rng.random(shape) ** 6 * 256).astype(np.uint8)
        pairs.append((levels, labelled(mask, ignore)))
    return pairs


def test_precision_and_recall_are_those_of_the_definition(cases):
    scores = DamageScores()
    for levels, case in cases:
        scores.add(levels, case)
    for threshold in (1, 2, 40, 128, 200, 255):
        precision, recall = by_definition(cases, threshold)
        assert scores.all.precision[threshold - 1] == pytest.approx(precision)
        assert scores.all.recall[threshold - 1] == pytest.approx(recall)
        assert scores.recall_by_kind(threshold) == {"dust": pytest.approx(recall)}


def test_the_tolerance_is_two_pixels_along_rows_and_columns():
    mask = np.zeros((15, 15), bool)
    mask[7, 7] = True
    for away, recall in ((0, 1), (1, 1), (2, 1), (3, 0)):
        for place in ((7 + away, 7), (7 - away, 7), (7, 7 + away), (7, 7 - away)):
            scores, hole = DamageScores(), np.zeros_like(mask)
            hole[place] = True
            scores.add(hole, labelled(mask))
            assert scores.all.recall[-1] == scores.all.precision[-1] == recall


def test_a_perfect_map_scores_1():
    mask = np.random.default_rng(2).random((64, 64)) < 0.1
    scores = DamageScores()
    scores.add(mask.astype(np.float32), labelled(mask))
    assert scores.all.average_precision == 1
    assert scores.all.f1[scores.all.best_threshold - 1] == 1


def test_a_random_map_scores_the_share_of_pixels_near_damage():
    rng = np.random.default_rng(3)
    mask = np.zeros((256, 256), bool)
    mask[60:100, 30:200] = True
    scores = DamageScores()
    scores.add(rng.random(mask.shape), labelled(mask))
    share = np.mean([near(mask, y, x) for y, x in np.argwhere(np.ones_like(mask))])
    assert scores.all.average_precision == pytest.approx(share, abs=0.02)


def test_a_map_that_finds_nothing_scores_0():
    mask = np.eye(16, dtype=bool)
    scores = DamageScores()
    scores.add(np.zeros(mask.shape, np.float32), labelled(mask))
    assert scores.all.average_precision == 0
    assert scores.recall_by_kind(128) == {"dust": 0}


def test_average_precision_worked_out_by_hand():
    """Ten single pixels far apart: 4 right at 200, then 6 wrong at 150, then 2 right at 100."""
    mask, levels = np.zeros((40, 60), bool), np.zeros((40, 60), np.uint8)
    places = [(y, x) for y in (5, 15, 25, 35) for x in (5, 15, 25, 35, 45)]
    for number, place in enumerate(places[:14]):
        mask[place] = number < 8
        levels[place] = 200 if number < 4 else 100 if number < 6 else 0
        levels[place] = 150 if number >= 8 else levels[place]
    scores = DamageScores()
    scores.add(levels, labelled(mask))
    assert scores.all.average_precision == pytest.approx(4 / 8 * 1 + 2 / 8 * 6 / 12)
    assert scores.all.best_threshold == 151  # the first of equals: 4 of 4, and 4 of 8
    assert scores.all.f1.max() == pytest.approx(2 / 3)


def test_without_areas_peel_wear_and_tear_count_neither_way():
    mask = np.zeros((40, 40), bool)
    mask[:12, :12] = mask[30] = True
    kind = np.zeros(mask.shape, np.uint8)
    kind[:12, :12], kind[30] = KINDS.index("tear"), KINDS.index("scratch")
    line, both, blank = kind == KINDS.index("scratch"), mask, np.zeros((40, 40, 3), np.uint8)
    damaged = Damaged(blank, blank, mask, np.zeros_like(mask), kind)
    for hole, recall in ((line, line.sum() / mask.sum()), (both, 1)):
        scores = DamageScores()
        scores.add(hole, damaged)
        assert scores.all.recall[-1] == pytest.approx(recall)
        assert scores.thin.recall[-1] == scores.thin.precision[-1] == 1
    assert areas(damaged)[13, 5]
    assert not areas(damaged)[14, 5]


def test_what_is_flagged_on_clean_pictures_is_a_share():
    scores = DamageScores()
    levels = np.zeros((10, 10), np.uint8)
    levels[0, :4], levels[1, :2] = 100, 200
    scores.add_clean(levels)
    scores.add_clean(np.zeros((10, 30)))
    assert scores.flagged(100) == pytest.approx(6 / 400)
    assert scores.flagged(101) == pytest.approx(2 / 400)


def test_counts_of_pictures_add_up_in_any_order(cases):
    scores = [DamageScores(), DamageScores()]
    for levels, case in cases:
        scores[0].add(levels, case)
    for levels, case in reversed(cases):
        scores[1].add(levels, case)
    assert np.array_equal(scores[0].all.precision, scores[1].all.precision)
    assert np.array_equal(scores[0].thin.recall, scores[1].thin.recall)


def test_a_level_means_at_least_its_share():
    assert to_levels(np.array([[0, 0.5, 1]]), (1, 3)).tolist() == [[0, 127, 255]]
    assert to_levels(np.array([[False, True]]), (1, 2)).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("probability", "said"),
    [
        (np.zeros((8, 9)), "a picture"),
        (np.zeros((8, 8, 1)), "a picture"),
        (np.full((8, 8), 1.01), "1.01"),
        (np.full((8, 8), -0.01), "-0.01"),
        (np.full((8, 8), np.nan), "nan"),
    ],
)
def test_what_is_no_map_of_the_picture_is_refused(probability, said):
    with pytest.raises(ValueError, match=said):
        DamageScores().add(probability, labelled(np.eye(8, dtype=bool)))


def test_a_detector_is_scored_on_damaged_and_clean_prints():
    photographs = [np.full((96, 120, 3), level, np.uint8) for level in (60, 100, 140)]
    damaged = [
        render(photograph, seed, UNSEEN)
        for photograph, seed in zip(photographs, range(3), strict=True)
    ]
    known = {print_.image.tobytes(): print_.mask for print_ in damaged}
    known |= {print_.truth.tobytes(): np.zeros((96, 120), bool) for print_ in damaged}
    scores = score(lambda pixels: known[pixels.tobytes()], photographs, range(3), UNSEEN)
    assert scores.all.average_precision == 1
    assert scores.flagged(1) == 0
    with pytest.raises(ValueError, match="shorter"):
        score(lambda pixels: pixels[..., 0], photographs, range(2))


@pytest.mark.parametrize("name", BASELINES)
def test_a_classical_detector_finds_a_white_line_and_nothing_on_a_plain_ground(name):
    plain = np.full((80, 90, 3), 100, np.uint8)
    scratched = plain.copy()
    scratched[40:42] = 190
    on_line, on_plain = BASELINES[name](scratched), BASELINES[name](plain)
    assert on_line.shape == (80, 90)
    assert on_line.dtype == np.float32
    assert 0 <= on_line.min() <= on_line.max() < 1
    assert on_line[40:42].min() > 0.5 > 0.05 > on_plain.max()
    assert on_line[[20, 60]].max() < 0.3
