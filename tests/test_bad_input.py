"""Every bad input gets its own 4xx problem, and the same worker serves afterwards.

Bodies over the limit, declared and undeclared, are in test_uploads.
"""

import struct
import zipfile
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _same_worker_serves_afterwards(service, image, mask):
    yield
    assert service.worker.poll() is None
    assert service.gateway.poll() is None
    assert service.post(image, mask).status_code == 200


def refused(answer, status, code, said=""):
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), body
    assert said.lower() in body["detail"].lower()
    return body


def both_ways(service, *files, **options):
    """The answer to a client that waits, and the problem that an asynchronous one finds."""
    answer = service.post(*files, **options)
    job = service.client.get(f"/jobs/{answer.headers['x-job-id']}").json()
    assert job["status"] == "failed"
    assert job["error"]["code"] == answer.json()["code"]
    assert job["error"]["detail"] == answer.json()["detail"]
    return answer


def zipped():
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photo.png", b"x" * 100)
    return buffer.getvalue()


def png(side, depth, colour=2):
    """A PNG, by default of RGB, with a header and no picture."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IEND", b"")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="96" height="64"/>'


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"this is not a picture at all", "text"),
        (bytes(range(256)), "not known"),
        (zipped(), "ZIP"),
        (SVG, "SVG"),
        (b"GIF89a" + bytes(20), "GIF"),
        (b"", "empty"),
    ],
    ids=["text", "noise", "zip", "svg", "gif", "0 bytes"],
)
def test_an_image_that_is_none_is_named_for_what_it_is(service, mask, data, seen):
    body = refused(service.post(data, mask), 415, "unsupported-image-type", seen)
    assert "PNG" in body["detail"]
    assert body["errors"][0]["field"] == "image"


@pytest.mark.parametrize("data", [b"this is not a picture", zipped(), SVG, b""])
def test_a_mask_that_is_no_picture_is_refused(service, image, data):
    body = refused(service.post(image, data), 422, "mask-unreadable")
    assert body["errors"][0]["field"] == "mask"


def test_an_image_of_one_pixel_is_too_small(service, encoded, mask):
    one = encoded(np.zeros((1, 1, 3), np.uint8))
    refused(service.post(one, mask), 422, "image-too-small", "1 x 1")


def test_an_image_of_too_many_pixels_is_refused_by_its_header(service, mask):
    refused(service.post(png(30_000, depth=8), mask), 413, "too-many-pixels", "30000 x 30000")


def test_a_cmyk_image_is_refused_by_name(service, photo, mask):
    buffer = BytesIO()
    Image.fromarray(photo).convert("CMYK").save(buffer, "JPEG")
    refused(service.post(buffer.getvalue(), mask), 415, "unsupported-image-type", "CMYK")


def test_an_image_of_16_bit_gray_with_alpha_is_refused_by_name(service, mask):
    data = png(64, depth=16, colour=4)
    refused(service.post(data, mask), 415, "unsupported-image-type", "16 bits")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_truncated_image_is_found_by_the_worker(service, encoded, photo, mask, kind):
    rng = np.random.default_rng(0)
    noisy = photo ^ rng.integers(0, 128, photo.shape, dtype=np.uint8)  # so that it is long
    whole = encoded(noisy, kind)
    answer = service.post(whole[: len(whole) * 2 // 3], mask)
    refused(answer, 422, "image-unreadable")


def test_a_truncated_image_is_the_same_problem_for_both_kinds_of_client(service, image, mask):
    refused(both_ways(service, image[:-40], mask), 422, "image-unreadable")


def test_a_truncated_mask_is_unreadable(service, image, mask):
    refused(service.post(image, mask[:-30]), 422, "mask-unreadable")


def test_a_mask_of_another_size_is_refused_with_both_sizes(service, image, encoded):
    other = encoded(np.full((32, 48), 255, np.uint8))
    body = refused(service.post(image, other), 422, "mask-size-mismatch", "48")
    for number in ("48", "32", "96", "64"):
        assert number in body["detail"]


def test_a_mask_of_another_size_is_taken_when_it_may_be_resized(service, image, encoded):
    other = np.zeros((32, 48), np.uint8)
    other[10:20, 10:20] = 255
    assert service.post(image, encoded(other), data={"mask_fit": "resize"}).status_code == 200


def test_an_all_black_mask_asks_for_nothing(service, image, encoded):
    black = encoded(np.zeros((64, 96), np.uint8))
    refused(both_ways(service, image, black), 422, "mask-empty")


def test_an_all_white_mask_leaves_nothing_known(service, image, encoded):
    white = encoded(np.full((64, 96), 255, np.uint8))
    refused(both_ways(service, image, white), 422, "mask-full")


def test_without_a_mask_an_opaque_picture_is_refused(service, image):
    body = refused(service.post(image), 422, "mask-missing")
    assert [fault["field"] for fault in body["errors"]] == ["mask"]


def test_a_missing_field_is_named(service, mask):
    body = refused(service.post(None, mask), 422, "invalid-field", "image")
    assert body["errors"][0]["field"] == "image"


def test_an_unknown_field_is_named(service, image, mask):
    body = refused(service.post(image, mask, data={"sampler": "x"}), 422, "invalid-field")
    assert body["errors"][0]["field"] == "sampler"


def test_an_unknown_model_is_named(service, image, mask):
    refused(service.post(image, mask, data={"model": "lama"}), 422, "unknown-model", "lama")


def test_another_content_type_is_named(service, image):
    answer = service.client.post("/inpaint", content=image, headers={"Content-Type": "image/png"})
    refused(answer, 400, "malformed-multipart", "image/png")


def test_damage_anywhere_in_a_file_is_never_more_than_a_4xx(service, image, mask):
    for place in range(0, len(image), max(1, len(image) // 40)):
        damaged = bytearray(image)
        damaged[place] ^= 0xFF
        answer = service.post(bytes(damaged), mask)
        assert answer.status_code in (200, 415, 422), answer.text
