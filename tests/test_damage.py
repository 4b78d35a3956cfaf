"""Rendered damage: the same for the same seed, labelled where it shows, and nowhere else."""

import cv2
import numpy as np
import pytest

from training.ageing import DISTRACTORS, age
from training.damage import render
from training.injuries import AREAS, CHANCES, KINDS, LINES, PAINTERS, SPECKS, TRAIN, UNSEEN

SHAPE = 144, 176
ALONE = [kind for kind in KINDS if kind != "none"]
AGEING = [name for name in DISTRACTORS if name not in ("fading", "blur", "paper", "grain")]


@pytest.fixture(scope="module")
def photograph():
    """Soft shapes of many colours, neither so dark nor so light that damage could not be seen."""
    rng = np.random.default_rng(3)
    few = rng.integers(40, 150, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(few, SHAPE[::-1], interpolation=cv2.INTER_CUBIC)


def same(one, two):
    return all(
        np.array_equal(getattr(one, name), getattr(two, name)) for name in one.__dataclass_fields__
    )


def test_a_seed_gives_the_same_print_and_another_seed_another(photograph):
    before = photograph.copy()
    assert same(render(photograph, 5), render(photograph, 5))
    assert not np.array_equal(render(photograph, 5).image, render(photograph, 6).image)
    assert np.array_equal(photograph, before)


def test_labels_are_disjoint_and_have_a_kind(photograph):
    for seed in range(12):
        damaged = render(photograph, seed)
        assert damaged.image.shape == damaged.truth.shape == photograph.shape
        assert damaged.image.dtype == damaged.truth.dtype == damaged.kind.dtype == np.uint8
        assert not (damaged.mask & damaged.ignore).any()
        assert np.array_equal(damaged.kind > 0, damaged.mask)


def test_a_clean_print_is_its_own_truth(photograph):
    for seed in range(6):
        clean = render(photograph, seed, kinds=())
        assert not clean.mask.any()
        assert not clean.ignore.any()
        assert np.array_equal(clean.image, clean.truth)


def test_damage_changes_neither_the_ageing_nor_the_scan(photograph):
    for seed in range(4):
        truths = [render(photograph, seed, kinds=kinds).truth for kinds in ((), ("crack", "tear"))]
        assert np.array_equal(*truths)


def test_without_ageing_the_truth_is_the_photograph_but_for_the_scan(photograph):
    clean = render(photograph, 1, kinds=(), distractors=())
    assert np.abs(clean.truth.astype(int) - photograph).mean() < 6


@pytest.mark.parametrize("kind", ALONE)
def test_a_kind_alone_changes_the_print_where_the_label_says(kind, photograph):
    labelled = 0
    for seed in range(6):
        damaged = render(photograph, seed, kinds=(kind,), distractors=())
        change = np.abs(damaged.image.astype(int) - damaged.truth).max(axis=2)
        outside = ~damaged.mask & ~damaged.ignore
        assert set(np.unique(damaged.kind)) <= {0, KINDS.index(kind)}
        if damaged.mask.any():
            labelled += 1
            assert change[damaged.mask].mean() > 6  # JPEG takes some
        # JPEG carries something over the border of the label, within its blocks.
        assert change[outside].mean() < 1.5
        assert (change[outside] > 30).mean() < 0.002
    assert labelled >= 3  # the rest fell on what hides them


@pytest.mark.parametrize("name", AGEING)
def test_what_looks_like_damage_is_drawn_and_never_labelled(name, photograph):
    plain = render(photograph, 0, kinds=(), distractors=()).image
    changed = 0
    for seed in range(4):
        drawn = render(photograph, seed, kinds=(), distractors=(name,))
        assert not drawn.mask.any()
        assert not drawn.ignore.any()
        changed += bool((np.abs(drawn.image.astype(int) - plain) > 30).any())
    assert changed >= 2


def test_the_bed_of_the_scanner_is_never_damage(photograph):
    for seed in range(6):
        outline = age(photograph, np.random.default_rng([seed, 0]), ("bed",)).outline
        assert 0.6 < (outline.inside > 0.5).mean() < 0.999
        damaged = render(photograph, seed, kinds=("wear", "tear", "dust"), distractors=("bed",))
        beside = cv2.erode((outline.inside == 0).astype(np.uint8), np.ones((5, 5))) > 0
        assert damaged.mask.any()
        assert not damaged.mask[beside].any()


def test_wear_follows_the_edge_of_a_print_on_the_bed(photograph):
    reach = []
    for seed in range(10):
        outline = age(photograph, np.random.default_rng([seed, 0]), ("bed",)).outline
        damaged = render(photograph, seed, kinds=("wear",), distractors=("bed",))
        reach.extend(outline.inward()[damaged.mask])
    assert len(reach) > 500
    assert np.quantile(reach, 0.9) < 0.2 * SHAPE[0]


def test_unseen_settings_draw_other_damage_on_the_same_print(photograph):
    assert UNSEEN != TRAIN
    for seed in range(4):
        seen, unseen = (
            render(photograph, seed, settings, ("crack",)) for settings in (TRAIN, UNSEEN)
        )
        assert not np.array_equal(seen.mask, unseen.mask)


def test_every_kind_has_a_painter_a_chance_and_a_group():
    assert KINDS[0] == "none"
    assert set(PAINTERS) == set(CHANCES) == set(ALONE)
    assert sorted(LINES + SPECKS + AREAS) == sorted(ALONE)


@pytest.mark.parametrize("shape", [(32, 200), (57, 33), (700, 90)])
def test_pictures_of_any_shape_are_rendered(shape):
    photograph = np.full((*shape, 3), 128, np.uint8)
    assert render(photograph, 1, kinds=ALONE, distractors=DISTRACTORS).mask.any()


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_pictures_are_rendered(level):
    render(np.full((64, 64, 3), level, np.uint8), 1, kinds=ALONE, distractors=DISTRACTORS)


@pytest.mark.parametrize(
    ("pixels", "options", "said"),
    [
        (np.zeros((64, 64), np.uint8), {}, "uint8"),
        (np.zeros((64, 64, 4), np.uint8), {}, "uint8"),
        (np.zeros((64, 64, 3), np.float32), {}, "float32"),
        (np.zeros((64, 31, 3), np.uint8), {}, "smaller than 32"),
        (np.zeros((64, 64, 3), np.uint8), {"kinds": ("rust",)}, "rust"),
        (np.zeros((64, 64, 3), np.uint8), {"kinds": ("none",)}, "none"),
        (np.zeros((64, 64, 3), np.uint8), {"distractors": ("fog",)}, "fog"),
    ],
)
def test_what_cannot_be_rendered_is_refused(pixels, options, said):
    with pytest.raises(ValueError, match=said):
        render(pixels, 1, **options)
