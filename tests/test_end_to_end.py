"""A picture through the whole service: HTTP, queue, worker, a learned generator, and back."""

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from inpaint.settings import Settings
from models.aotgan_compact import CompactAOTGAN
from models.checkpoint import Header, save


@pytest.fixture(scope="module")
def learned(server, start_service, tmp_path_factory):
    """A service whose default model is a checkpoint saved here."""
    folder = tmp_path_factory.mktemp("learned")
    torch.manual_seed(0)
    config = CompactAOTGAN.Config(width=4, channels=8, blocks=1, rates=(1, 2))
    generator = CompactAOTGAN(config)
    header = Header.of(generator, name="tiny", license="Apache-2.0")
    save(folder / "tiny.safetensors", generator, header)
    settings = Settings(data=folder, redis_url=server.url(3))
    variables = {
        "INPAINT_CHECKPOINTS": str(folder),
        "INPAINT_MODEL": "tiny",
        "INPAINT_MODELS": "tiny,telea,navier-stokes",
    }
    with start_service(settings, worker=True, **variables) as running:
        yield running


def pixels_of(data):
    return np.asarray(Image.open(BytesIO(data)))


@pytest.mark.slow
def test_a_learned_model_fills_the_hole_and_nothing_else(learned, image, mask, photo, hole):
    answer = learned.post(image, mask)

    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Model"] == "tiny"
    assert answer.headers["Content-Type"] == "image/png"
    result = pixels_of(answer.content)
    assert np.array_equal(result[~hole], photo[~hole])
    assert not np.array_equal(result[hole], photo[hole])


@pytest.mark.slow
def test_two_models_give_two_fills(learned, image, mask, hole):
    fills = [
        pixels_of(learned.post(image, mask, data={"model": name}).content)[hole]
        for name in ("tiny", "telea")
    ]

    assert not np.array_equal(*fills)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "auto"), [("tiny", "patches"), ("telea", "none"), ("navier-stokes", "none")]
)
def test_a_fill_is_refined_as_asked_and_by_default_what_a_network_filled(
    learned, image, mask, photo, hole, model, auto
):
    answers = {
        refine: learned.post(image, mask, data={"model": model, "refine": refine})
        for refine in ("none", "patches", "full")
    }
    default = learned.post(image, mask, data={"model": model})

    for refine, answer in answers.items():
        assert answer.status_code == 200, answer.text
        job = learned.client.get(f"/jobs/{answer.headers['x-job-id']}").json()
        assert job["params"]["refine"] == refine
        assert np.array_equal(pixels_of(answer.content)[~hole], photo[~hole])
    assert len({answer.content for answer in answers.values()}) == 3
    assert default.content == answers[auto].content


@pytest.mark.slow
def test_telea_is_opencvs_bit_for_bit(learned, image, mask, photo, hole):
    answer = learned.post(image, mask, data={"model": "telea"})

    expected = cv2.inpaint(photo, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    assert np.array_equal(pixels_of(answer.content), expected)


@pytest.mark.slow
def test_requests_are_answered_while_a_huge_hole_is_refined_and_that_may_be_canceled(
    learned, encoded, image, mask, eventually
):
    large = np.random.default_rng(0).integers(0, 256, (1600, 1600, 3), np.uint8)
    hole = np.zeros(large.shape[:2], np.uint8)
    hole[400:1200, 400:1200] = 255
    answer = learned.post(
        encoded(large, compress_level=0),
        encoded(hole),
        data={"model": "telea", "refine": "full"},
        headers={"Prefer": "respond-async"},
    )
    place = answer.headers["Location"]
    eventually(lambda: learned.client.get(place).json()["status"] == "running")

    assert [learned.post(image, mask).status_code for _ in range(3)] == [200] * 3
    assert learned.client.post(f"{place}/cancel").status_code == 202
    assert learned.client.get(place).json()["status"] == "canceled"


@pytest.mark.slow
def test_many_at_once_get_each_their_own_picture_and_the_damaged_one_its_refusal(
    learned, encoded, photo, hole, mask
):
    """They share batches: of two models, and with one that cannot be decoded."""
    pictures = [np.roll(photo, shift, axis=1) for shift in range(24)]
    sent = [encoded(picture) for picture in pictures]
    sent[7] = sent[7][: len(sent[7]) // 2]
    models = ["tiny", "telea"] * 12

    def post(image, model):
        return learned.post(image, mask, data={"model": model, "refine": "none"})

    alone = [post(sent[number], models[number]).content for number in (0, 1)]
    with ThreadPoolExecutor(len(sent)) as clients:
        answers = list(clients.map(post, sent, models))

    assert answers.pop(7).json()["code"] == "image-unreadable"
    del pictures[7]
    for answer, picture in zip(answers, pictures, strict=True):
        assert answer.status_code == 200, answer.text
        assert np.array_equal(pixels_of(answer.content)[~hole], picture[~hole])
    for answer, before in zip(answers, alone, strict=False):
        levels = pixels_of(answer.content).astype(int) - pixels_of(before)
        assert np.abs(levels).max() <= 1  # as a batch of one, within a level


@pytest.mark.slow
def test_a_jpeg_stays_a_jpeg_of_its_size(learned, encoded, photo, mask):
    answer = learned.post(encoded(photo, "JPEG", quality=90), mask)

    assert answer.headers["Content-Type"] == "image/jpeg"
    result = Image.open(BytesIO(answer.content))
    assert result.format == "JPEG"
    assert result.size == (96, 64)


@pytest.mark.slow
def test_an_asynchronous_job_is_found_with_its_result(
    learned, image, mask, photo, hole, eventually
):
    answer = learned.post(image, mask, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    place = answer.headers["Location"]

    eventually(lambda: learned.client.get(place).json()["status"] == "succeeded")

    result = pixels_of(learned.client.get(f"{place}/result").content)
    assert np.array_equal(result[~hole], photo[~hole])


@pytest.mark.slow
def test_a_hole_grown_and_feathered_changes_nothing_beyond(learned, image, mask, photo, hole):
    answer = learned.post(image, mask, data={"mask_grow": "2", "mask_feather": "4"})

    result = pixels_of(answer.content)
    grown = np.zeros_like(hole)
    grown[20:44, 36:64] = True
    assert np.array_equal(result[~grown], photo[~grown])
    assert not np.array_equal(result[grown & ~hole], photo[grown & ~hole])


@pytest.mark.slow
def test_damaged_data_is_told_to_who_waits_and_to_who_asks_later(learned, image, mask, eventually):
    truncated = image[: len(image) // 2]

    waited = learned.post(truncated, mask)
    place = learned.post(truncated, mask, headers={"Prefer": "respond-async"}).headers["Location"]
    eventually(lambda: learned.client.get(place).json()["status"] == "failed")

    assert waited.status_code == 422
    assert waited.json()["code"] == "image-unreadable"
    assert learned.client.get(place).json()["error"]["code"] == "image-unreadable"
