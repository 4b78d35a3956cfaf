import cv2
import numpy as np
import pytest
import torch

from models.classical import NavierStokes, Telea
from models.filler import TorchFiller

BOTH = pytest.mark.parametrize(
    ("kind", "method"), [(Telea, cv2.INPAINT_TELEA), (NavierStokes, cv2.INPAINT_NS)]
)


def photograph() -> tuple[np.ndarray, np.ndarray]:
    """Return smooth pixels (1,H,W,3) with a little noise, and a hole (1,H,W)."""
    down, right = np.mgrid[:48, :64]
    colours = np.stack([down * 4, right * 3, 255 - down * 2 - right], axis=-1)
    noise = np.random.default_rng(0).integers(-3, 4, colours.shape)
    holes = np.zeros((1, 48, 64), bool)
    holes[0, 16:26, 20:40] = True
    return np.clip(colours + noise, 0, 255).astype(np.uint8)[None], holes


@BOTH
def test_fills_are_those_of_opencv(kind, method):
    pixels, holes = photograph()

    fill = TorchFiller(kind(kind.Config(radius=4)))(pixels, holes)[0]

    expected = cv2.inpaint(pixels[0], holes[0].astype(np.uint8), 4, method)
    assert np.array_equal(fill[holes[0]], expected[holes[0]])


@BOTH
def test_a_smooth_picture_is_continued_into_the_hole(kind, method):
    pixels, holes = photograph()

    fill = TorchFiller(kind(kind.Config()))(np.where(holes[..., None], 0, pixels), holes)

    assert np.abs(fill.astype(int) - pixels)[holes].mean() < 6


@BOTH
def test_the_known_region_comes_back_unchanged(kind, method):
    pixels, holes = photograph()

    fill = TorchFiller(kind(kind.Config()))(pixels, holes)

    assert np.array_equal(fill[~holes], pixels[~holes])


@BOTH
def test_each_window_of_a_batch_has_its_own_hole(kind, method):
    pixels, holes = photograph()
    filler = TorchFiller(kind(kind.Config()))

    both = filler(np.concatenate([pixels, pixels]), np.concatenate([holes, ~holes]))

    assert np.array_equal(both[:1], filler(pixels, holes))
    assert np.array_equal(both[1:], filler(pixels, ~holes))


@BOTH
def test_a_wider_radius_gives_another_fill(kind, method):
    pixels, holes = photograph()

    near = TorchFiller(kind(kind.Config(radius=1)))(pixels, holes)
    far = TorchFiller(kind(kind.Config(radius=8)))(pixels, holes)

    assert not np.array_equal(near, far)


@BOTH
def test_a_radius_below_one_pixel_is_refused(kind, method):
    with pytest.raises(ValueError, match="radius = 0"):
        kind(kind.Config(radius=0))


@BOTH
def test_a_full_hole_stays_blank(kind, method):
    generator = kind(kind.Config())

    fill = generator(torch.rand(1, 3, 8, 8), torch.ones(1, 1, 8, 8))

    assert fill.abs().max() < 0.01


@BOTH
def test_there_are_no_weights(kind, method):
    assert list(kind(kind.Config()).state_dict()) == []
