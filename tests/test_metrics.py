"""PSNR, SSIM and both L1 against their formulas and against scikit-image."""

import math

import numpy as np
import pytest

from training import metrics


@pytest.fixture
def pair():
    rng = np.random.default_rng(7)
    ramp = np.linspace(0, 200, 48)[None, :, None] + np.linspace(0, 50, 40)[:, None, None]
    photo = (ramp + rng.normal(0, 12, (40, 48, 3))).clip(0, 255).astype(np.uint8)
    other = photo.copy()
    other[10:30, 12:35] = rng.integers(0, 256, (20, 23, 3))
    return photo, other


def test_l1_is_the_mean_share_of_the_levels():
    black = np.zeros((2, 2, 3), np.uint8)
    one = black.copy()
    one[0, 0] = 255
    assert metrics.l1(black, one) == 0.25
    assert metrics.l1(one, black) == 0.25


def test_the_relative_l1_is_the_difference_as_a_share_of_all_light():
    dark = np.full((4, 4, 3), 20, np.uint8)
    darker = dark.copy()
    darker[:2] = 10
    assert metrics.l1_relative(dark, darker) == pytest.approx((10 / 2) / (20 + 15))
    assert metrics.l1_relative(darker, dark) == metrics.l1_relative(dark, darker)
    assert metrics.l1_relative(dark * np.uint8(5), darker * np.uint8(5)) == pytest.approx(1 / 7)
    assert metrics.l1(dark, darker) == pytest.approx(5 / 255)


def test_the_relative_l1_of_black_pictures_is_a_number():
    black = np.zeros((2, 2, 3), np.uint8)
    assert metrics.l1_relative(black, black) == 0
    assert metrics.l1_relative(black, ~black) == 1


def test_psnr_follows_the_mean_squared_error():
    black = np.zeros((4, 4, 3), np.uint8)
    assert metrics.psnr(black, black + np.uint8(5)) == pytest.approx(10 * math.log10(255**2 / 25))
    assert metrics.psnr(black, ~black) == pytest.approx(0)


def test_equal_pictures_have_the_best_scores(pair):
    photo, _ = pair
    assert metrics.psnr(photo, photo) == 100
    assert metrics.ssim(photo, photo) == pytest.approx(1, abs=1e-12)
    assert metrics.l1(photo, photo) == 0
    assert metrics.l1_relative(photo, photo) == 0


def test_a_flat_pair_has_the_luminance_term_alone():
    black = np.zeros((16, 16, 3), np.uint8)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    assert metrics.ssim(black + np.uint8(100), black + np.uint8(120)) == pytest.approx(expected)


def test_ssim_and_psnr_agree_with_scikit_image(pair):
    reference = pytest.importorskip("skimage.metrics", reason="needs the demo extra")
    photo, other = pair
    expected = reference.structural_similarity(
        photo,
        other,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert metrics.ssim(photo, other) == pytest.approx(expected, abs=1e-9)
    assert metrics.psnr(photo, other) == pytest.approx(
        reference.peak_signal_noise_ratio(photo, other, data_range=255), abs=1e-9
    )


@pytest.mark.parametrize("score", [metrics.l1, metrics.l1_relative, metrics.psnr, metrics.ssim])
def test_pictures_of_two_shapes_are_refused(score, pair):
    photo, other = pair
    with pytest.raises(ValueError, match="cannot be compared"):
        score(photo, other[:-1])


def test_ssim_refuses_a_picture_smaller_than_its_window():
    small = np.zeros((10, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 11x11 pixels, not 64x10"):
        metrics.ssim(small, small)
