import numpy as np
import pytest

from training.faces import CLASSES, draw, faces


def test_faces_depend_on_seed_and_number_alone():
    few, _ = faces(3, 7)
    more, _ = faces(6, 7)
    other, _ = faces(3, 8)

    assert all(np.array_equal(one, two) for one, two in zip(few, more, strict=False))
    assert not any(np.array_equal(one, two) for one, two in zip(few, other, strict=True))


def test_classes_are_equally_many():
    drawn, classes = faces(12, 1)

    assert len(drawn) == 12
    assert np.bincount(classes).tolist() == [2] * len(CLASSES)


@pytest.mark.parametrize(("one", "two"), [(0, 1), (0, 2), (2, 4)])
def test_classes_differ_in_brows_or_mouth_alone(one, two):
    """The same random numbers, another class: all but a small part of the picture stays."""
    first, second = (draw(kind, np.random.default_rng(3)) for kind in (one, two))

    changed = (np.abs(first.astype(int) - second).max(axis=2) > 40).mean()
    assert 0.002 < changed < 0.08


def test_a_face_is_64_pixels_wide_and_colourful():
    face = draw(0, np.random.default_rng(0))

    assert face.shape == (64, 64, 3)
    assert face.dtype == np.uint8
    assert np.ptp(face, axis=2).mean() > 5
