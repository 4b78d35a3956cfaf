"""A picture opened, filled with one colour, and closed."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import get_args

import cv2
import numpy as np
import pytest
from PIL import Image

from inpaint.errors import (
    ImageUnreadable,
    InvalidField,
    MaskEmpty,
    MaskFull,
    MaskSizeMismatch,
    UnknownModel,
)
from inpaint.header import Limits
from inpaint.highres import SizeRule
from inpaint.mask import grow
from inpaint.patches import Refine
from inpaint.picture import decode
from inpaint.restore import restore
from models.damage import find as damage_of
from models.damage import load_detector
from models.filler import Filler
from training.damage import render
from worker.pipeline import Options, Restoration
from worker.tone import toned
from worker.zoo import Zoo, find


class Red(Filler):
    """A filler of one colour."""

    rule = SizeRule(multiple=8, minimum=16, trained=64)
    learned = False


ZOO = Zoo({"red": Red()}, {})


def run(image, mask, zoo=ZOO, *, blank=False, **changes):
    """Fill a picture's hole with red."""
    restoration = Restoration(zoo, "red", Options(**changes), Limits(), blank=blank)
    restoration.take(image, mask)
    stage = restoration.open()
    while stage is not None:
        for window in stage.plan.windows:
            if stage.model == "red":
                stage.canvas.lay(np.full((*window.size, 3), [255, 0, 0], np.uint8))
            else:
                stage.canvas.lay(zoo.detector(stage.model)(*stage.plan.inputs([window]))[0])
        stage = restoration.close(stage.canvas.pixels(), infer=0.25, lay=0.5)
    return restoration.restored


def pixels_of(restored):
    return np.asarray(Image.open(BytesIO(restored.data)))


def test_the_hole_is_filled_and_the_known_region_is_byte_identical(image, mask, photo, hole):
    restored = run(image, mask)

    result = pixels_of(restored)
    assert np.array_equal(result[~hole], photo[~hole])
    assert (result[hole] == [255, 0, 0]).all()


def test_the_facts_are_those_of_the_picture(image, mask, hole):
    restored = run(image, mask)

    assert restored.media_type == "image/png"
    assert (restored.format, restored.mode) == ("png", "rgb")
    assert (restored.width, restored.height) == (96, 64)
    assert (restored.mask_source, restored.mask_mode) == ("mask", "luminance")
    assert restored.coverage == hole.mean()
    assert restored.windows == 1
    assert set(restored.seconds) == {"decode", "infer", "encode"}
    assert restored.seconds["decode"] > 0
    assert restored.seconds["infer"] == 0.25
    assert restored.seconds["encode"] > 0.5  # laying and encoding


class Blurred(Red):
    """A filler that counts as a network."""

    learned = True

    def __call__(self, pixels, holes):
        return np.full_like(pixels, [255, 0, 0])


@pytest.mark.parametrize("refine", get_args(Refine))
@pytest.mark.parametrize("kind", [Red, Blurred])
def test_a_fill_is_refined_as_asked_exactly_as_restore_does(image, mask, photo, hole, kind, refine):
    result = pixels_of(run(image, mask, Zoo({"red": kind()}, {}), refine=refine))

    meant = ("patches" if kind is Blurred else "none") if refine == "auto" else refine
    assert np.array_equal(result, restore(photo, hole, Blurred(), refine=meant))
    assert (result[hole] == [255, 0, 0]).all() == (meant == "none")


def test_another_output_format_is_written(image, mask):
    restored = run(image, mask, output_format="webp", output_quality=80)

    assert restored.media_type == "image/webp"
    assert Image.open(BytesIO(restored.data)).format == "WEBP"


def test_a_hole_grows_by_the_larger_of_grow_and_feather(image, mask, photo, hole):
    result = pixels_of(run(image, mask, mask_grow=5, mask_feather=2))

    grown = np.zeros_like(hole)
    grown[19:45, 35:65] = True
    assert np.array_equal(result[~grown], photo[~grown])
    assert (result[22:42, 38:62] == [255, 0, 0]).all()
    assert (result[19, 50] != [255, 0, 0]).any()  # blended


def test_transparency_is_the_mask_where_there_is_none(encoded, photo, hole):
    alpha = np.where(hole, 0, 255).astype(np.uint8)

    restored = run(encoded(np.dstack([photo, alpha])), None)

    result = pixels_of(restored)
    assert (restored.mask_source, restored.mask_mode) == ("alpha", "alpha")
    assert np.array_equal(result[~hole][:, :3], photo[~hole])
    assert (result[hole] == [255, 0, 0, 255]).all()


def test_sixteen_bit_gray_keeps_its_depth_outside_the_hole(encoded, mask, hole):
    gray = np.random.default_rng(0).integers(0, 65536, hole.shape, dtype=np.uint16)

    result = pixels_of(run(encoded(gray), mask))

    assert np.array_equal(result[~hole], gray[~hole])


def sixteen(hole):
    return np.random.default_rng(0).integers(0, 65_536, (*hole.shape, 3), dtype=np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bit_colour_is_filled_and_blended_in_its_depth(suffix, mask, hole):
    colours = sixteen(hole)
    data = cv2.imencode(suffix, colours[..., ::-1])[1].tobytes()

    restored = run(data, mask, mask_feather=3)

    result = decode(restored.data).samples
    grown = grow(hole, 3)
    assert restored.mode == "rgb16"
    assert np.array_equal(result[~grown], colours[~grown])
    assert (result[hole] == [65_535, 0, 0]).all()
    assert np.count_nonzero(result[grown & ~hole] % 257) > 0.5 * (grown & ~hole).sum()


@pytest.mark.parametrize("deep", [False, True])
def test_a_tone_changes_the_whole_picture_and_only_where_it_is_asked_for(
    deep, encoded, photo, mask, hole
):
    dull = (photo // 2 + 60).astype(np.uint16) * 257
    data = cv2.imencode(".png", dull[..., ::-1])[1].tobytes() if deep else encoded(photo // 2 + 60)
    filled, faded = (decode(run(data, mask, tone=tone).data) for tone in ((), ("fade",)))

    expected = toned(filled, ("fade",)).samples
    assert np.array_equal(faded.samples, expected)
    assert not np.array_equal(faded.samples[~hole], filled.samples[~hole])
    assert np.array_equal(filled.samples[~hole], decode(data).samples[~hole])


@pytest.mark.parametrize(("value", "refusal"), [(0, MaskEmpty), (255, MaskFull)])
def test_an_empty_or_full_mask_is_refused(image, encoded, hole, value, refusal):
    with pytest.raises(refusal):
        run(image, encoded(np.full(hole.shape, value, np.uint8)))


def test_where_an_empty_mask_may_be_a_picture_stays_as_it_is(encoded, photo, hole):
    image, black = encoded(photo, "JPEG"), encoded(np.zeros(hole.shape, np.uint8))

    restored = run(image, black, blank=True, mask_grow=5, mask_feather=3)
    toned_ = run(image, black, blank=True, tone=("fade",))

    assert (restored.data, restored.unchanged) == (image, True)
    assert (restored.coverage, restored.windows) == (0, 0)
    assert (restored.mask_source, restored.mask_mode) == ("mask", "luminance")
    assert not toned_.unchanged
    assert toned_.data != image


def test_a_mask_that_grows_over_everything_is_refused(image, mask):
    with pytest.raises(MaskFull):
        run(image, mask, mask_grow=64)


def test_a_truncated_picture_is_refused(image, mask):
    with pytest.raises(ImageUnreadable):
        run(image[: len(image) // 2], mask)


@pytest.mark.parametrize("mask_fit", ["exact", "resize"])
def test_a_mask_of_another_size_is_refused_unless_it_may_be_stretched(
    image, encoded, hole, photo, mask_fit
):
    half = encoded(hole[::2, ::2].astype(np.uint8) * 255)

    if mask_fit == "exact":
        with pytest.raises(MaskSizeMismatch):
            run(image, half, mask_fit=mask_fit)
    else:
        result = pixels_of(run(image, half, mask_fit=mask_fit))
        assert (result[hole] == [255, 0, 0]).all()
        assert np.array_equal(result[~hole], photo[~hole])


def test_a_format_that_cannot_hold_the_result_is_refused(encoded, photo, mask):
    half = np.full(photo.shape[:2], 100, np.uint8)

    with pytest.raises(InvalidField, match="transparency"):
        run(encoded(np.dstack([photo, half])), mask, output_format="jpeg")


def files(encoded, photo, hole):
    """Pictures of every format, some with metadata that Pillow warns about, and one damaged."""
    alpha = np.where(hole, 100, 255).astype(np.uint8)
    gray = np.random.default_rng(0).integers(0, 65536, hole.shape, dtype=np.uint16)
    exif = Image.Exif()
    exif[270] = "a title"
    odd = bytearray(encoded(photo, "TIFF", compression="tiff_deflate", exif=exif))
    at = odd.index(b"a title")
    odd[at : at + 7] = b"\xff" * 7
    return {
        "png": encoded(photo),
        "alpha": encoded(np.dstack([photo, alpha])),
        "gray16": encoded(gray),
        "jpeg": encoded(photo, "JPEG", quality=90, exif=exif.tobytes()[:-3]),
        "webp": encoded(photo, "WEBP", lossless=True),
        "tiff": encoded(photo, "TIFF", compression="tiff_lzw", exif=exif),
        "odd": bytes(odd),
        "cut": encoded(photo)[:-100],
    }


def test_pictures_of_all_formats_in_many_threads_come_out_as_one_by_one(encoded, photo, hole, mask):
    def attempt(data):
        try:
            return run(data, mask).data
        except ImageUnreadable as refusal:
            return refusal.detail

    pictures = files(encoded, photo, hole)
    filters = list(warnings.filters)
    alone = {kind: attempt(data) for kind, data in pictures.items()}
    assert [kind for kind, result in alone.items() if isinstance(result, str)] == ["cut"]

    many = [*pictures] * 12
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda kind: attempt(pictures[kind]), many))

    assert all(result == alone[kind] for kind, result in zip(many, together, strict=True))
    assert warnings.filters == filters  # those of all threads


# --- damage that is found -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def search(white_detector):
    """Run a picture with a detector that takes white for damage; the filler fills with red."""
    detector, _ = load_detector(white_detector / "scratches.safetensors")
    zoo = Zoo({"red": Red()}, {}, {"scratches": detector})

    def begin(image, mask=None, **options):
        return run(image, mask, zoo, **{"auto_mask": "scratches"} | options)

    return begin


def hole_of(data):
    return np.asarray(Image.open(BytesIO(data))) == 255


def test_damage_is_found_grown_by_two_pixels_and_filled(search, encoded, scratched):
    pixels, damage = scratched

    restored = search(encoded(pixels))

    hole = grow(damage, 2)
    assert np.array_equal(hole_of(restored.mask), hole)
    result = pixels_of(restored)
    assert (result[hole] == [255, 0, 0]).all()
    assert np.array_equal(result[~hole], pixels[~hole])
    assert (restored.mask_source, restored.mask_mode) == ("scratches", None)
    assert restored.coverage == hole.mean()
    assert not restored.unchanged
    assert restored.warning is None
    assert set(restored.seconds) == {"decode", "detect", "infer", "encode"}
    assert restored.seconds["detect"] > 0.75  # in the model and laying, and finding


@pytest.mark.parametrize(
    ("options", "pixels"),
    [({"mask_grow": 0}, 0), ({"mask_grow": 5}, 5), ({"mask_feather": 1}, 2)]
    + [({"mask_feather": 3}, 3), ({"mask_grow": 0, "mask_feather": 1}, 1)],
)
def test_what_is_found_grows_as_is_asked_for(search, encoded, scratched, options, pixels):
    restored = search(encoded(scratched[0]), **options)

    assert np.array_equal(hole_of(restored.mask), grow(scratched[1], pixels))


def test_what_is_found_joins_the_mask_which_does_not_grow(search, encoded, scratched, mask, hole):
    restored = search(encoded(scratched[0]), mask)

    assert np.array_equal(hole_of(restored.mask), grow(scratched[1], 2) | hole)
    assert (restored.mask_source, restored.mask_mode) == ("mask+scratches", "luminance")


def test_what_is_found_joins_transparency(search, encoded, scratched, hole):
    alpha = np.where(hole, 0, 255).astype(np.uint8)

    restored = search(encoded(np.dstack([scratched[0], alpha])))

    assert np.array_equal(hole_of(restored.mask), grow(scratched[1], 2) | hole)
    assert restored.mask_source == "alpha+scratches"
    assert (pixels_of(restored)[..., 3] == 255).all()


def test_opaque_alpha_is_no_hole_and_stays(search, encoded, scratched):
    alpha = np.full(scratched[1].shape, 200, np.uint8)

    restored = search(encoded(np.dstack([scratched[0], alpha])))

    assert restored.mask_source == "scratches"
    assert (pixels_of(restored)[..., 3] == 200).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_without_damage_comes_back_byte_for_byte(search, encoded, photo, kind):
    image = encoded(np.minimum(photo, 200), kind)

    restored = search(image, output_format="same")

    assert restored.data == image
    assert restored.unchanged
    assert (restored.coverage, restored.windows) == (0, 0)
    assert restored.media_type == f"image/{kind.lower()}"
    assert not hole_of(restored.mask).any()
    assert "infer" not in restored.seconds


def test_a_picture_without_damage_is_converted_where_that_is_asked_for(search, encoded, photo):
    clean = np.minimum(photo, 200)
    image = encoded(clean)

    restored = search(image, output_format="tiff")

    assert np.array_equal(pixels_of(restored), clean)
    assert (restored.media_type, restored.format) == ("image/tiff", "png")
    assert not restored.unchanged
    assert search(image, output_format="png").data == image
    jpeg = encoded(clean, "JPEG")
    assert not search(jpeg, output_quality=50).unchanged
    assert not search(image, tone=("fade",)).unchanged


def test_a_mask_alone_is_as_found_and_grows_only_if_asked_to(search, encoded, scratched):
    image = encoded(scratched[0])

    restored = search(image, mask_only=True)

    assert np.array_equal(hole_of(restored.data), scratched[1])
    found = Image.open(BytesIO(restored.data))
    assert (found.format, found.mode, found.size) == ("PNG", "L", (96, 64))
    assert restored.mask == restored.data
    assert restored.coverage == scratched[1].mean()
    assert restored.windows == 0
    grown = search(image, mask_only=True, mask_grow=1, mask_feather=9)
    assert np.array_equal(hole_of(grown.data), grow(scratched[1], 1))


def test_a_mask_alone_needs_no_generator_and_may_be_empty_or_full(search, encoded, photo):
    empty = search(encoded(np.minimum(photo, 200)), mask_only=True, output_format="jpeg")
    full = search(encoded(np.full((20, 20, 3), 255, np.uint8)), mask_only=True)

    assert not hole_of(empty.data).any()
    assert empty.media_type == "image/png"
    assert not empty.unchanged
    assert hole_of(full.data).all()
    assert full.warning == "mask-large"


def test_a_picture_that_is_all_damage_is_refused(search, encoded):
    with pytest.raises(MaskFull):
        search(encoded(np.full((20, 20, 3), 255, np.uint8)))


@pytest.mark.parametrize(("columns", "warning"), [(38, None), (42, "mask-large")])
def test_more_than_two_fifths_are_worth_a_warning(search, encoded, columns, warning):
    pixels = np.full((50, 100, 3), 90, np.uint8)
    pixels[:, :columns] = 255

    restored = search(encoded(pixels))

    assert restored.warning == warning
    assert restored.coverage == pytest.approx((columns + 2) / 100, abs=0.005)


def test_gray_and_sixteen_bits_are_searched_and_keep_their_depth(search, encoded, scratched):
    gray = (scratched[0][..., 0].astype(np.uint16)) * 257 - scratched[1]

    restored = search(encoded(gray))

    hole = grow(scratched[1], 2)
    assert np.array_equal(hole_of(restored.mask), hole)
    result = pixels_of(restored)
    assert result.dtype == np.uint16
    assert np.array_equal(result[~hole], gray[~hole])


def test_the_shipped_detector_finds_most_of_what_is_rendered_and_little_else():
    data = pytest.importorskip("skimage.data", reason="photographs come with the extra `demo`")
    old = render(data.astronaut(), 3, kinds=("crack", "scratch"))
    detector, _ = load_detector(find(None)["scratches"])

    found, nothing = (
        damage_of(detector.probabilities(pixels), 0.5, detector.thresholds)
        for pixels in (old.image, old.truth)
    )

    assert (grow(found, 2) & old.mask).sum() > 0.7 * old.mask.sum()
    assert (found & grow(old.mask | old.ignore, 2)).sum() > 0.7 * found.sum()
    assert nothing.mean() < 0.01


def test_a_picture_that_is_searched_counts_twice(white_detector, image, mask):
    """Probabilities, as large as the picture, lie beside it."""
    detector, _ = load_detector(white_detector / "scratches.safetensors")
    zoo = Zoo({"red": Red()}, {}, {"scratches": detector})
    options = (Options(), Options(auto_mask="scratches"))

    counted = [Restoration(zoo, "red", each, Limits()).take(image, mask) for each in options]

    assert counted == [64 * 96, 2 * 64 * 96]


def test_a_detector_that_is_not_held_is_refused(encoded, photo):
    with pytest.raises(UnknownModel, match="no detector scratches; it holds: none"):
        run(encoded(photo), None, auto_mask="scratches")
