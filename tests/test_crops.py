"""Crops of rendered damage, and the pool that they wait in."""

import os
import signal
from contextlib import suppress

import numpy as np
import pytest

from inpaint.errors import BadData
from training.crops import (
    FIRST_SEED,
    HEADS,
    IGNORED,
    RIM,
    UNIT,
    Crop,
    Pool,
    Renderer,
    crops_of,
    label,
    read,
    renderings,
)
from training.damage import render
from training.injuries import KINDS, TRAIN

HOW = {"seed": 1, "size": 64, "scales": (1.0, 1.5), "clean": 0.3}


def crop(value, *, clean=False):
    return Crop(np.full((64, 64, 3), value, np.uint8), np.zeros((64, 64, 2), np.uint8), clean)


def test_each_photograph_is_trained_on_or_held_out(photographs):
    kept, trained = (read([photographs], held_out=held_out) for held_out in (True, False))

    assert 0 < len(kept) < len(trained)
    assert not set(kept) & set(trained)
    assert len(kept) + len(trained) == 60


def test_a_source_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(BadData, match="nowhere does not exist"):
        read([tmp_path / "nowhere"], held_out=False)


def test_a_print_depends_on_its_number_alone(photographs):
    files = read([photographs], held_out=False)

    once, again, other = (crops_of(files, number, **HOW) for number in (5, 5, 6))

    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(once, again, strict=True))
    assert all(np.array_equal(a.label, b.label) for a, b in zip(once, again, strict=True))
    assert not np.array_equal(once[0].pixels, other[0].pixels)
    assert once[0].pixels.shape == (64, 64, 3)
    assert once[0].label.shape == (64, 64, 2)


def test_clean_prints_have_no_label(photographs):
    files = read([photographs], held_out=False)

    crops = [
        found for number in range(6) for found in crops_of(files, number, **HOW | {"clean": 1})
    ]

    assert all(found.clean for found in crops)
    assert {int(head) for found in crops for head in np.unique(found.label[..., 0])} == {0, IGNORED}


def test_what_is_near_a_cut_is_ignored_but_not_what_is_near_a_side_of_the_print(photographs):
    files = read([photographs], held_out=False)

    crops = [found for number in range(20) for found in crops_of(files, number, **HOW)]

    heads = np.stack([found.label[..., 0] for found in crops])
    ignored = (heads[:, :RIM] == IGNORED).all(axis=(1, 2))
    middle = heads[:, : RIM // 2, RIM:-RIM]
    assert ignored.any()
    assert (middle[~ignored] != IGNORED).mean() > 0.5


def test_a_label_names_heads_what_is_ignored_and_weighs_small_components_more():
    gray = np.full((120, 140, 3), 120, np.uint8)
    damaged = render(gray, 3, TRAIN, ("dust", "peel", "crack"))

    found = label(damaged)

    assert (found[..., 0][damaged.ignore] == IGNORED).all()
    assert ((found[..., 0] > 0) == (damaged.mask | damaged.ignore)).all()
    for kind, head in (("crack", 1), ("dust", 2), ("peel", 3)):
        assert (found[..., 0][damaged.kind == KINDS.index(kind)] == head).all()
    assert (found[..., 1][~damaged.mask] == UNIT).all()
    assert found[..., 1].max() > UNIT
    assert HEADS.tolist() == [0, 1, 1, 1, 1, 2, 1, 3, 3, 3, 3, 1]


def test_the_oldest_damaged_crop_makes_room(tmp_path):
    pool = Pool(tmp_path, 64, damaged=3, clean=2)
    for value in range(5):
        pool.add(crop(value))

    assert sorted(pool.pixels[:3, 0, 0, 0].tolist()) == [2, 3, 4]
    assert set(pool.draw(50, np.random.default_rng(0), 0.5, 0.5)) == {0, 1, 2}  # no clean ones yet


def test_the_clean_crop_that_fools_least_makes_room(tmp_path):
    pool = Pool(tmp_path, 64, damaged=1, clean=3)
    pool.add(crop(9))
    for value in range(3):
        pool.add(crop(value, clean=True))
    for place, fooled in ((0, 0.9), (1, 0.5), (2, 0.1), (3, 0.4)):
        pool.judged(place, fooled)

    pool.add(crop(7, clean=True))

    assert pool.pixels[1:, 0, 0, 0].tolist() == [0, 7, 2]
    pool.judged(2, 0.2)
    assert set(pool.draw(30, np.random.default_rng(0), 1.0, 1.0)) == {1}  # the worst tenth


def test_a_pool_goes_on_from_disk_and_state(tmp_path):
    pool = Pool(tmp_path, 64, damaged=4, clean=4)
    pool.add(crop(3))
    pool.add(crop(4, clean=True))

    again = Pool(tmp_path, 64, damaged=4, clean=4)
    again.restore(pool.state())

    assert (again.count, again.clean_count) == (1, 1)
    assert (again.pixels[0, 0, 0, 0], again.pixels[4, 0, 0, 0]) == (3, 4)
    assert again.draw(9, np.random.default_rng(1), 0.5, 0.5) == pool.draw(
        9, np.random.default_rng(1), 0.5, 0.5
    )


@pytest.mark.slow
def test_the_renderer_renders_in_order_and_its_end_is_told(photographs):
    files = read([photographs], held_out=False)
    renderer = Renderer([photographs], 7, **HOW)
    try:
        for number in (7, 8):
            expected = crops_of(files, number, **HOW)
            for a, b in zip(renderer.next(), expected, strict=True):
                assert np.array_equal(a.pixels, b.pixels)
        assert renderer.number == 9
        os.kill(renderer._process.pid, signal.SIGKILL)
        renderer._process.join()
        while renderer.ready():
            with suppress(EOFError, OSError):
                renderer._crops.recv_bytes()
                continue
            break
        with pytest.raises(BadData, match="renders training crops has ended"):
            renderer.next()
    finally:
        renderer.close()


def test_renderings_for_scores_are_always_the_same(photographs):
    once, again = (list(renderings([photographs], 2, (1.0, 1.2), TRAIN)) for _ in range(2))

    assert all(np.array_equal(a.image, b.image) for a, b in zip(once, again, strict=True))
    assert all(min(damaged.mask.shape) >= 256 for damaged in once)
    assert FIRST_SEED > 9000 + 200  # the seeds of scores
