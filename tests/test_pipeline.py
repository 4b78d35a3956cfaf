"""A picture opened, filled with one colour, and closed."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from inpaint.errors import ImageUnreadable, InvalidField, MaskEmpty, MaskFull, MaskSizeMismatch
from inpaint.header import Limits
from inpaint.highres import SizeRule
from models.filler import Filler
from worker.pipeline import Options, Restoration
from worker.zoo import Zoo


class Red(Filler):
    """A filler of one colour."""

    rule = SizeRule(multiple=8, minimum=16, trained=64)


ZOO = Zoo({"red": Red()}, {})


def run(image, mask, **changes):
    """Fill a picture's hole with red."""
    restoration = Restoration(ZOO, "red", Options(**changes), Limits())
    restoration.take(image, mask)
    stage = restoration.open()
    while stage is not None:
        for window in stage.plan.windows:
            stage.canvas.lay(np.full((*window.size, 3), [255, 0, 0], np.uint8))
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


@pytest.mark.parametrize(("value", "refusal"), [(0, MaskEmpty), (255, MaskFull)])
def test_an_empty_or_full_mask_is_refused(image, encoded, hole, value, refusal):
    with pytest.raises(refusal):
        run(image, encoded(np.full(hole.shape, value, np.uint8)))


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
