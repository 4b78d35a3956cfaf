from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from rq.timeouts import JobTimeoutException

from inpaint.errors import ImageUnreadable, InpaintError, MaskEmpty, MaskFull, ModelFailed
from inpaint.header import Limits
from inpaint.highres import SizeRule
from inpaint.jobs import InpaintJob
from worker.pipeline import inpaint_bytes

KEY = "0" * 32


class Red:
    """A filler that paints red, or raises."""

    rule = SizeRule(multiple=8, minimum=16, trained=64)

    def __init__(self, error=None):
        self.error = error

    def __call__(self, pixels, holes):
        if self.error:
            raise self.error
        return np.broadcast_to(np.array([255, 0, 0], np.uint8), pixels.shape)


def run(image, mask, *, filler=None, **fields):
    job = InpaintJob(image=KEY, mask=mask and KEY, model="red", **fields)
    return inpaint_bytes(image, mask, job, filler or Red(), Limits())


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
    assert all(seconds >= 0 for seconds in restored.seconds.values())


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


def test_what_a_generator_raises_is_a_problem_of_the_picture(image, mask, caplog):
    with pytest.raises(ModelFailed, match="RuntimeError"):
        run(image, mask, filler=Red(RuntimeError("shapes disagree")))

    assert "shapes disagree" in caplog.text  # the trace is for the operator


@pytest.mark.parametrize("error", [JobTimeoutException("late"), InpaintError("known")])
def test_a_time_limit_and_a_known_refusal_pass_as_they_are(image, mask, error):
    with pytest.raises(type(error)) as raised:
        run(image, mask, filler=Red(error))

    assert raised.value is error
