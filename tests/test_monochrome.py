"""Photographs of one colour: told apart from colour, and restored in theirs."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from inpaint.highres import SizeRule
from inpaint.monochrome import tone_of, toned
from inpaint.picture import decode, luminance
from inpaint.restore import restore

AWAY = np.array([30, -8.29, -36]) * np.sin(np.arange(256) / 81)[:, None]  # luminance stays
SEPIA = np.clip(np.rint(np.arange(256)[:, None] + AWAY), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def colour():
    return data.astronaut()[::2, ::2]


@pytest.fixture
def gray(colour):
    return np.repeat(luminance(colour)[..., None], 3, axis=2)


@pytest.fixture
def sepia(colour):
    return SEPIA[luminance(colour)]


@pytest.fixture
def hole():
    hole = np.zeros((256, 256), bool)
    hole[60:160, 90:180] = True
    return hole


class Gaudy:
    """Fills every hole with colours, as a network might that knows no gray photographs."""

    rule = SizeRule()
    learned = False

    def __call__(self, pixels, holes):
        return np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)


def as_jpeg(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return decode(file.getvalue()).pixels


def test_a_picture_in_colour_has_no_tone_and_its_fill_stays(colour, hole):
    assert tone_of(colour, hole) is None
    fill = Gaudy()(colour[None], hole[None])[0]
    assert np.array_equal(restore(colour, hole, Gaudy())[hole], fill[hole])


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket"])
def test_pictures_in_few_colours_are_pictures_in_colour(name):
    pixels = getattr(data, name)()
    assert tone_of(pixels, np.zeros(pixels.shape[:2], bool)) is None


def test_gray_is_filled_with_gray_exactly(gray, hole):
    result = restore(gray, hole, Gaudy())
    assert np.array_equal(tone_of(gray, hole), np.repeat(np.arange(256)[:, None], 3, axis=1))
    assert np.array_equal(result[..., 0], result[..., 1])
    assert np.array_equal(result[..., 0], result[..., 2])
    assert np.array_equal(result[~hole], gray[~hole])
    assert len(np.unique(result[hole])) > 100  # as bright and as dark as the fill


@pytest.mark.parametrize("feather", [0, 8])
def test_gray_stays_exact_where_windows_overlap_are_scaled_and_are_feathered(gray, feather):
    class Small(Gaudy):
        rule = SizeRule(multiple=32, trained=64)

    hole = np.zeros((256, 256), bool)
    hole[30:220, 30:220] = True
    result = restore(gray, hole, Small(), feather=feather)
    assert np.array_equal(result[..., 0], result[..., 1])
    assert np.array_equal(result[..., 0], result[..., 2])


def test_a_gray_jpeg_of_three_channels_is_gray(gray, hole):
    pixels = as_jpeg(gray, quality=60)
    result = restore(pixels, hole, Gaudy())
    assert np.array_equal(result[..., 0], result[..., 2])


def test_a_toned_print_is_filled_in_its_tone(sepia, hole):
    result = restore(sepia, hole, Gaudy())
    expected = SEPIA[luminance(result)]
    assert np.abs(result[hole].astype(int) - expected[hole]).max() <= 4
    assert np.array_equal(result[~hole], sepia[~hole])


def test_a_slightly_toned_jpeg_is_filled_in_its_tone(gray, hole):
    warm = np.clip(gray + np.array([9, -2, -13]), 0, 255).astype(np.uint8)
    pixels = as_jpeg(warm, quality=90)
    result = restore(pixels, hole, Gaudy())
    middle = hole & (luminance(result) > 40) & (luminance(result) < 220)
    red_over_blue = result[middle][:, 0].astype(int) - result[middle][:, 2]
    assert np.abs(red_over_blue - 22).max() <= 6


def test_the_tone_keeps_the_luminance_of_the_fill(sepia, hole):
    fill = np.random.default_rng(0).integers(40, 200, (256, 256, 3), np.uint8)
    after = toned(fill, tone_of(sepia, hole))
    assert np.abs(luminance(after).astype(int) - luminance(fill)).max() <= 1


def test_what_is_in_the_hole_does_not_count(gray, hole):
    gray[hole] = (255, 0, 0)
    assert tone_of(gray, hole) is not None


def test_a_little_colour_is_a_stamp_and_much_is_a_picture_in_colour(gray, hole):
    gray[:30, :30] = (200, 30, 30)
    assert tone_of(gray, hole) is not None
    gray[:60, :60] = (200, 30, 30)
    assert tone_of(gray, hole) is None


def test_where_next_to_nothing_is_known_nothing_is_said(gray):
    hole = np.ones((256, 256), bool)
    hole[100, 100:120] = False
    assert tone_of(gray, hole) is None
