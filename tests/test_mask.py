"""Mask files of every kind become holes, and holes grow, feather and fall into groups."""

import io

import numpy as np
import pytest
from PIL import Image

from inpaint.errors import (
    FileTooLarge,
    ImageTooSmall,
    MaskEmpty,
    MaskFull,
    MaskMissing,
    MaskSizeMismatch,
    MaskUnreadable,
)
from inpaint.mask import (
    BLOCK,
    blocks,
    bounding_box,
    check_size,
    decode_hole,
    feather_weights,
    groups,
    grow,
    hole_of_alpha,
    rim,
)
from inpaint.picture import Limits, decode, probe

HEIGHT, WIDTH = 30, 50


def saved(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture
def hole():
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[5:14, 20:37] = True
    return hole


def painted(hole):
    return Image.fromarray(hole.astype(np.uint8) * 255)


def erased(hole, colours):
    """A picture of `colours` (H,W,3) that is transparent in the hole."""
    return Image.fromarray(np.dstack([colours, np.where(hole, 0, 255).astype(np.uint8)]))


def read(data, **options):
    return decode_hole(data, HEIGHT, WIDTH, **options)[0]


# --- polarity ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "format", "options"),
    [
        ("L", "PNG", {}),
        ("1", "PNG", {}),
        ("P", "PNG", {}),
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("1", "TIFF", {"compression": "group4"}),
        ("L", "WEBP", {"lossless": True}),
        ("L", "JPEG", {"quality": 95}),
    ],
)
def test_white_is_the_hole_in_every_kind_of_file(hole, mode, format, options):
    assert np.array_equal(read(saved(painted(hole).convert(mode), format, **options)), hole)


def test_a_mask_of_16_bits_is_read(hole):
    image = Image.fromarray(hole.astype(np.uint16) * 40_000)
    assert np.array_equal(read(saved(image)), hole)


def test_gray_of_128_is_hole_and_127_is_not(hole):
    values = np.where(hole, 128, 127).astype(np.uint8)
    assert np.array_equal(read(saved(Image.fromarray(values))), hole)


def test_inverted_luminance_takes_black_as_the_hole(hole):
    assert np.array_equal(read(saved(painted(~hole)), mode="luminance_inverted"), hole)


def test_auto_reads_one_colour_of_varying_alpha_as_alpha(hole):
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    data = saved(erased(hole, black))
    assert np.array_equal(read(data), hole)
    assert np.array_equal(read(data, mode="alpha"), hole)
    assert decode_hole(data, HEIGHT, WIDTH)[1] == "alpha"


def test_auto_reads_strokes_on_a_transparent_ground_as_luminance(hole):
    strokes = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    strokes[hole] = 255
    data = saved(Image.fromarray(strokes))
    assert np.array_equal(read(data), hole)
    assert decode_hole(data, HEIGHT, WIDTH)[1] == "luminance"


def test_alpha_of_an_erased_photograph_is_read_when_asked_for(hole):
    colours = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    assert np.array_equal(read(saved(erased(hole, colours)), mode="alpha"), hole)


def test_transparent_pixels_are_no_hole_where_luminance_decides(hole):
    white = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert np.array_equal(read(saved(erased(~hole, white)), mode="luminance"), hole)
    assert np.array_equal(read(saved(erased(~hole, black)), mode="luminance_inverted"), hole)


def test_a_mask_is_turned_as_its_exif_says(hole):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = painted(np.rot90(hole))
    assert np.array_equal(read(saved(stored, exif=exif)), hole)


# --- refusals ---------------------------------------------------------------------------------


def test_a_mask_of_another_size_is_refused_with_both_sizes(hole):
    data = saved(painted(hole[:, :-1]))
    with pytest.raises(MaskSizeMismatch, match="49 x 30.*50 x 30") as refusal:
        read(data)
    assert refusal.value.field == "mask"
    with pytest.raises(MaskSizeMismatch, match="49 x 30.*50 x 30"):
        check_size(probe(data), probe(saved(painted(hole))))
    check_size(probe(saved(painted(hole))), probe(saved(painted(hole), "JPEG")))


def test_a_mask_of_another_size_is_stretched_when_asked_for(hole):
    data = saved(painted(np.repeat(np.repeat(hole, 2, axis=0), 3, axis=1)))
    assert np.array_equal(read(data, fit="resize"), hole)


@pytest.mark.parametrize(
    ("level", "mode", "error"),
    [
        (0, "auto", MaskEmpty),
        (255, "auto", MaskFull),
        (0, "luminance_inverted", MaskFull),
        (255, "luminance_inverted", MaskEmpty),
        (255, "alpha", MaskEmpty),
    ],
)
def test_empty_and_full_masks_are_refused_by_name(level, mode, error):
    data = saved(Image.new("L", (WIDTH, HEIGHT), level))
    with pytest.raises(error):
        read(data, mode=mode)


def test_a_mask_that_vanishes_when_stretched_is_empty():
    dot = np.zeros((300, 500), bool)
    dot[0, 0] = True
    with pytest.raises(MaskEmpty):
        read(saved(painted(dot)), fit="resize")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        saved(Image.new("RGB", (WIDTH, HEIGHT)), "GIF"),
        saved(Image.new("CMYK", (WIDTH, HEIGHT)), "JPEG"),
        saved(Image.effect_noise((WIDTH, HEIGHT), 50))[:-300],
        saved(Image.new("L", (WIDTH, HEIGHT)))[:20],
    ],
)
def test_what_is_no_picture_is_an_unreadable_mask(data):
    with pytest.raises(MaskUnreadable, match="mask") as refusal:
        read(data)
    assert refusal.value.field == "mask"


def test_limits_hold_for_masks_too(hole):
    with pytest.raises(FileTooLarge) as refusal:
        read(saved(painted(hole)), limits=Limits(max_bytes=10))
    assert refusal.value.field == "mask"
    with pytest.raises(ImageTooSmall):
        read(saved(Image.new("L", (1, 1), 255)))


# --- a picture's own transparency -------------------------------------------------------------


def test_transparency_of_the_picture_is_a_hole(hole):
    colours = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    picture = decode(saved(erased(hole, colours)))
    assert np.array_equal(hole_of_alpha(picture), hole)


def test_a_picture_without_transparent_pixels_misses_its_mask(hole):
    for image in (Image.new("RGB", (WIDTH, HEIGHT)), Image.new("RGBA", (WIDTH, HEIGHT), "red")):
        with pytest.raises(MaskMissing):
            hole_of_alpha(decode(saved(image)))
    with pytest.raises(MaskFull):
        hole_of_alpha(decode(saved(Image.new("RGBA", (WIDTH, HEIGHT), (1, 2, 3, 0)))))


# --- grow and feather -------------------------------------------------------------------------


def random_hole(seed, shape=(90, 130)):
    return np.random.default_rng(seed).random(shape) < 0.001


def distances(hole):
    """Steps to the nearest known pixel, across, down or aslant; by wearing the hole away."""
    result = np.zeros(hole.shape, int)
    left = hole
    while left.any():
        result += left
        padded = np.pad(left, 1, constant_values=True)
        rows, columns = hole.shape
        near = [padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
        left = np.all(near, axis=0)
    return result


@pytest.mark.parametrize("pixels", [0, 1, 2, 3, 7, 8, 40, 128])
@pytest.mark.parametrize("seed", range(4))
def test_a_hole_grows_by_exactly_so_many_pixels(pixels, seed):
    hole = random_hole(seed)
    side = 2 * pixels + 1
    sums = np.pad(hole, pixels).cumsum(axis=0).cumsum(axis=1)
    sums = np.pad(sums, ((1, 0), (1, 0)))
    near = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    expected = near > 0
    assert np.array_equal(grow(hole, pixels), expected)


def test_an_empty_hole_stays_empty():
    empty = np.zeros((20, 20), bool)
    assert not grow(empty, 5).any()
    assert not feather_weights(empty, 5).any()
    assert bounding_box(empty) is None


@pytest.mark.parametrize("pixels", [0, 1, 2, 5, 8, 33])
@pytest.mark.parametrize("seed", range(3))
def test_feather_blends_within_the_hole_and_spares_its_inside(pixels, seed):
    hole = grow(random_hole(seed, (160, 240)), pixels + 2)
    hole[:, :30] = False  # something is known, whatever was drawn
    weights = feather_weights(hole, pixels)
    depth = distances(hole)
    assert not weights[~hole].any()
    assert np.all(weights[depth > pixels] == 255)
    assert np.all(weights[hole & (depth <= pixels // 2)] < 255)


def test_weights_rise_evenly_from_the_rim():
    hole = np.zeros((60, 60), bool)
    hole[:, 20:] = True
    weights = feather_weights(hole, 8)[30, 19:30].astype(int)
    assert weights[0] == 0
    assert weights[-1] == 255
    assert np.all(np.diff(weights) >= 0)
    assert np.diff(weights).max() <= 255 / 8 + 1


def test_a_hole_grown_by_the_feather_is_wholly_filled_where_it_was():
    hole = random_hole(9)
    assert np.all(feather_weights(grow(hole, 12), 12)[hole] == 255)


# --- groups -----------------------------------------------------------------------------------


def test_blocks_count_every_part_of_the_hole():
    hole = random_hole(2)
    counts = blocks(hole)
    assert counts.shape == (-(-90 // BLOCK), -(-130 // BLOCK))
    assert counts.sum() == hole.sum()
    for row, column in np.argwhere(hole):
        assert counts[row // BLOCK, column // BLOCK] > 0
    assert blocks(np.ones((40, 40), bool)).tolist() == [
        [256, 256, 128],
        [256, 256, 128],
        [128, 128, 64],
    ]


def test_touching_blocks_are_one_group_and_others_are_not():
    grid = np.array(
        [
            [1, 0, 0, 0, 0],
            [0, 1, 0, 1, 1],
            [1, 0, 0, 0, 0],
            [0, 0, 0, 1, 0],
        ],
        bool,
    )
    labels, boxes = groups(grid)
    assert boxes == [(0, 0, 3, 2), (1, 3, 2, 5), (3, 3, 4, 4)]
    assert np.array_equal(labels > 0, grid)
    assert [np.count_nonzero(labels == number) for number in (1, 2, 3)] == [3, 2, 1]


def test_the_bounding_box_ends_behind_the_hole(hole):
    assert bounding_box(hole) == (5, 20, 14, 37)


# --- a tile at a time -------------------------------------------------------------------------


def speckled(height, width, seed):
    generator = np.random.default_rng(seed)
    hole = generator.random((height, width)) < 10 ** generator.uniform(-5, -2)
    top, left = generator.integers(height), generator.integers(width)
    hole[top : top + 90, left : left + 300] = True
    hole[: height // 5, : width // 4] |= seed % 2 == 1
    return hole


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pixels", [1, 5, 70])
def test_a_hole_of_many_tiles_grows_by_squares(seed, pixels):
    hole = speckled(613, 777, seed)
    expected = np.zeros_like(hole)
    for row, column in np.argwhere(hole & ~np.roll(hole, 1, axis=1)):  # where a run begins
        length = int(np.argmin([*hole[row, column:], False]))
        rows = slice(max(0, row - pixels), row + pixels + 1)
        expected[rows, max(0, column - pixels) : column + length + pixels] = True
    expected |= grow(hole & ~expected, pixels)  # runs that begin at the picture's left border
    assert np.array_equal(grow(hole, pixels), expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pixels", [1, 5, 70])
def test_the_rim_is_where_the_fill_is_blended(seed, pixels):
    hole = grow(speckled(613, 777, seed), pixels)
    weights = feather_weights(hole, pixels)
    found = np.where(hole, 255, 0)
    for part, blended, part_weights in rim(hole, pixels):
        found[part][blended] = part_weights
    assert np.array_equal(found, weights)
    assert not weights[~hole].any()


def test_feather_weights_do_not_depend_on_where_in_the_picture_a_hole_lies():
    hole = np.zeros((900, 900), bool)
    hole[3:40, 4:33] = True
    expected = feather_weights(hole, 6)[:60, :60]
    for down, across in ((230, 240), (251, 255), (500, 130), (777, 601)):
        moved = np.roll(hole, (down, across), (0, 1))
        weights = np.roll(feather_weights(moved, 6), (-down, -across), (0, 1))
        assert np.array_equal(weights[:60, :60], expected)
        assert not weights[60:].any()
