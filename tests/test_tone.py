"""Steps on a whole picture: each does what it says, to 8 and 16 bits, and only where asked for."""

import cv2
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from skimage import data

from inpaint.jobs import TONES, InpaintJob, Tones
from inpaint.picture import Picture, luminance
from worker import tone
from worker.tone import toned

BLACK, WHITE = np.array([0.30, 0.24, 0.16]), np.array([0.93, 0.87, 0.68])  # of a yellowed print
BENDS = np.array([0.95, 1.0, 1.1])


def faded(pixels):
    """A photograph as sixty years on a wall leave it; docs/tone.png shows it."""
    aged = BLACK + (WHITE - BLACK) * (pixels / 255) ** BENDS
    aged += np.random.default_rng(0).normal(0, 0.008, pixels.shape)
    return np.rint(aged.clip(0, 1) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photo():
    return data.astronaut()[::2, ::2].copy()


def picture(samples, *, deep=False):
    return Picture(samples.astype(np.uint16) * 257 if deep else samples, None, "png")


def off(found, photo):
    return float(np.abs(found.astype(int) - photo).mean())


def grayed(photo, *, channels):
    plane = luminance(photo)
    return np.repeat(plane[..., None], 3, axis=2) if channels == 3 else plane


def test_without_a_step_the_picture_itself_comes_back(photo):
    before = picture(photo)
    assert toned(before, ()) is before


def test_fade_gives_black_white_and_neutral_gray_back(photo):
    aged = faded(photo)
    after = toned(picture(aged), ("fade",)).pixels
    assert off(after, photo) < 0.35 * off(aged, photo)
    cast = np.ptp(after.reshape(-1, 3).mean(axis=0) - photo.reshape(-1, 3).mean(axis=0))
    assert cast < 0.3 * np.ptp(aged.reshape(-1, 3).mean(axis=0) - photo.reshape(-1, 3).mean(axis=0))
    assert np.percentile(after, 1) < 8
    assert np.percentile(after, 99) > 247


def test_fade_takes_the_yellow_from_a_toned_gray_print(photo):
    gray = grayed(photo, channels=3)
    aged = faded(gray)
    after = toned(picture(aged), ("fade",)).pixels
    assert off(after[..., 0], after[..., 2]) < 0.2 * off(aged[..., 0], aged[..., 2])
    assert off(after, gray) < 0.35 * off(aged, gray)


def test_fade_does_not_blow_up_what_is_nearly_flat():
    flat = np.random.default_rng(0).integers(120, 124, (64, 64, 3), np.uint8)
    after = toned(picture(flat), ("fade",)).samples
    assert np.ptp(after) <= 4 * tone.MOST_GAIN


def test_fade_does_not_look_at_what_is_transparent(photo):
    aged = faded(photo)
    alpha = np.full(aged.shape[:2], 255, np.uint8)
    alpha[:64] = 0
    hidden = aged.copy()
    hidden[:64] = np.random.default_rng(0).integers(0, 256, (64, 256, 3))
    after = toned(Picture(hidden, alpha, "png"), ("fade",))
    alone = toned(picture(aged[64:]), ("fade",))
    assert off(after.samples[64:], alone.samples) < 1


def test_contrast_spreads_what_lies_close_and_keeps_the_colours(photo):
    dull = (photo // 3 + 80).astype(np.uint8)
    after = toned(picture(dull), ("contrast",)).samples
    assert luminance(after).std() > 1.2 * luminance(dull).std()
    differences = after[..., 0].astype(int) - after[..., 2], dull[..., 0].astype(int) - dull[..., 2]
    assert np.array_equal(*differences)  # nothing was cut off


def test_denoise_comes_closer_to_the_photograph(photo):
    noisy = photo + np.random.default_rng(0).normal(0, 8, photo.shape)
    noisy = np.rint(noisy.clip(0, 255)).astype(np.uint8)
    after = toned(picture(noisy), ("denoise",)).samples
    assert cv2.PSNR(after, photo) > cv2.PSNR(noisy, photo) + 2


def test_denoise_leaves_a_clean_picture_as_it_is():
    clean = np.linspace(0, 255, 256).astype(np.uint8)[None, :, None].repeat(256, 0).repeat(3, 2)
    assert toned(picture(clean), ("denoise",)).samples is clean


def test_denoise_in_strips_is_denoise_of_the_whole(photo, monkeypatch):
    aged = faded(photo)
    whole = toned(picture(aged), ("denoise",)).samples
    monkeypatch.setattr("inpaint.strips.STRIP", 7 * 256)
    assert np.array_equal(toned(picture(aged), ("denoise",)).samples, whole)


@pytest.mark.parametrize("step", TONES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("deep", [False, True])
def test_gray_stays_gray(photo, step, channels, deep):
    noisy = grayed(faded(photo), channels=channels)
    before = picture(noisy, deep=deep)
    kept = before.samples.copy()
    after = toned(before, (step,))
    assert after.samples.shape == noisy.shape
    assert after.samples.dtype == kept.dtype
    assert not np.array_equal(after.samples, kept)
    assert np.array_equal(before.samples, kept)
    if channels == 3:
        assert np.array_equal(after.samples[..., 0], after.samples[..., 1])
        assert np.array_equal(after.samples[..., 0], after.samples[..., 2])


@pytest.mark.parametrize("step", TONES)
def test_16_bits_are_worked_on_in_16_bits(photo, step):
    aged = faded(photo)
    eight = toned(picture(aged), (step,)).samples
    fine = aged.astype(np.uint16) * 257
    fine += np.random.default_rng(1).integers(0, 128, fine.shape, np.uint16)
    sixteen = toned(picture(fine), (step,)).samples
    assert off(np.rint(sixteen / 257), eight) < 2
    assert np.count_nonzero(sixteen % 257) > 0.5 * sixteen.size  # more than 8 bits, widened


def test_alpha_has_no_part_in_it(photo):
    alpha = np.random.default_rng(0).integers(0, 256, photo.shape[:2], np.uint8)
    after = toned(Picture(faded(photo), alpha, "png"), TONES)
    assert after.alpha is alpha


def test_the_order_of_the_names_does_not_matter(photo):
    before = picture(faded(photo))
    one, other = (toned(before, steps).samples for steps in (TONES, TONES[::-1]))
    assert np.array_equal(one, other)


def test_names_are_separated_by_commas_and_others_are_refused_with_the_choices():
    names = TypeAdapter(Tones)
    assert names.validate_python("fade, denoise") == ("fade", "denoise")
    assert names.validate_python("") == ()
    with pytest.raises(ValidationError, match="'denoise', 'fade' or 'contrast'"):
        names.validate_python("fade,sharpen")
    job = InpaintJob(image="0" * 32, model="telea", tone="fade")
    assert InpaintJob.model_validate_json(job.model_dump_json()).tone == ("fade",)
