"""The endpoints, over real HTTP, with a real worker behind the queue."""

import re
import time
from datetime import UTC, datetime, timedelta
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from inpaint import __version__, jobs
from inpaint.picture import decode


def pixels(answer):
    return np.asarray(Image.open(BytesIO(answer.content)))


def finished(service, location):
    """Ask for a job until it has ended."""
    end = time.monotonic() + 20
    while True:
        answer = service.client.get(location)
        assert answer.status_code == 200, answer.text
        if answer.json()["status"] in ("succeeded", "failed"):
            return answer
        assert answer.headers["retry-after"] == "1"
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_picture_comes_back_with_only_its_hole_changed(service, image, mask, photo, hole):
    answer = service.post(image, mask)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    restored = pixels(answer)
    assert restored.shape == photo.shape
    assert np.array_equal(restored[~hole], photo[~hole])
    assert not np.array_equal(restored[hole], photo[hole])


def test_what_is_under_the_hole_does_not_matter(service, encoded, photo, hole, image, mask):
    other = photo.copy()
    other[hole] = 255
    first, second = service.post(image, mask), service.post(encoded(other), mask)
    assert np.array_equal(pixels(first), pixels(second))


def test_a_result_tells_its_job_its_model_and_where_the_time_went(service, image, mask):
    answer = service.post(image, mask)
    job_id = answer.headers["x-job-id"]
    assert answer.headers["x-model"] == "telea"
    assert answer.headers["content-location"] == f"/jobs/{job_id}/result"
    assert answer.headers["content-disposition"] == f'inline; filename="{job_id}.png"'
    assert answer.headers["cache-control"] == "private, immutable"
    assert re.fullmatch(r'"[0-9a-f]{32}"', answer.headers["etag"])
    stages = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert sorted(stages) == ["decode", "encode", "infer", "queue"]
    assert all(float(milliseconds) >= 0 for milliseconds in stages.values())


def test_a_job_begins_when_its_upload_is_there(service, image, mask):
    files = {"image": ("a.png", image), "mask": ("b.png", mask)}
    request = service.client.build_request("POST", "/inpaint", files=files)
    body, halfway = request.read(), []

    def slowly():
        yield body[:100]
        time.sleep(0.5)
        halfway.append(datetime.now(UTC))
        yield body[100:]

    headers = {"Content-Type": request.headers["content-type"]}
    answer = service.client.post("/inpaint", content=slowly(), headers=headers)
    assert answer.status_code == 200
    assert jobs.created_at(answer.headers["x-job-id"]) >= halfway[0] - timedelta(milliseconds=1)


def test_the_model_is_chosen_by_name(service, image, mask):
    telea = service.post(image, mask, data={"model": "telea"})
    other = service.post(image, mask, data={"model": "navier-stokes"})
    assert other.headers["x-model"] == "navier-stokes"
    assert not np.array_equal(pixels(telea), pixels(other))


def test_the_hole_may_be_the_picture_s_own_transparency(service, encoded, photo, hole, mask, image):
    alpha = np.where(hole, 0, 255).astype(np.uint8)[..., None]
    answer = service.post(encoded(np.concatenate([photo, alpha], axis=-1)))
    assert answer.status_code == 200, answer.text
    assert np.array_equal(pixels(answer)[..., :3], pixels(service.post(image, mask)))
    job = service.client.get(f"/jobs/{answer.headers['x-job-id']}").json()
    assert job["mask"]["source"] == "alpha"


@pytest.mark.parametrize(
    ("output_format", "media_type"),
    [
        ("same", "image/png"),
        ("png", "image/png"),
        ("jpeg", "image/jpeg"),
        ("webp", "image/webp"),
        ("tiff", "image/tiff"),
    ],
)
def test_the_format_is_chosen_by_the_field(service, image, mask, output_format, media_type):
    data = {"output_format": output_format}
    answer = service.post(image, mask, data=data, headers={"Accept": "image/webp"})
    assert answer.headers["content-type"] == media_type
    assert Image.MIME[Image.open(BytesIO(answer.content)).format] == media_type


def test_the_format_is_chosen_by_accept_when_the_field_is_absent(service, image, mask):
    answer = service.post(image, mask, headers={"Accept": "image/webp, */*;q=0.1"})
    assert answer.headers["content-type"] == "image/webp"


def test_a_jpeg_comes_back_as_a_jpeg(service, encoded, photo, mask):
    answer = service.post(("photo.jpg", encoded(photo, "JPEG", quality=95)), mask)
    assert answer.headers["content-type"] == "image/jpeg"
    assert pixels(answer).shape == photo.shape


def test_the_quality_changes_the_size(service, image, mask):
    sizes = [
        len(service.post(image, mask, data={"output_format": "jpeg", "output_quality": q}).content)
        for q in ("10", "95")
    ]
    assert sizes[0] < sizes[1]


def test_what_a_file_is_called_does_not_matter(service, image, mask):
    for name in ("photo.jpg", "../../etc/passwd", "x" * 500, 'a"b', "ä\u202e.png", "a\0b"):
        answer = service.post((name, image, "text/html"), mask)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "image/png"


def test_respond_async_answers_at_once_with_the_job(service, image, mask):
    answer = service.post(image, mask, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}" == job["links"]["self"]
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-job-id"] == job["id"]
    assert job["status"] in ("queued", "running", "succeeded")


def test_a_job_is_followed_to_its_result(service, image, mask, photo, hole):
    data = {"mask_grow": "3", "model": "navier-stokes"}
    headers = {"Prefer": "respond-async"}
    location = service.post(image, mask, data=data, headers=headers).headers["location"]
    answer = finished(service, location)
    assert "retry-after" not in answer.headers
    job = answer.json()
    assert job["status"] == "succeeded"
    assert job["created_at"] <= job["started_at"] <= job["finished_at"] < job["expires_at"]
    assert job["created_at"].endswith("Z")
    assert (job["model"], job["attempts"], job["error"]) == ("navier-stokes", 1, None)
    assert job["queue_position"] is None
    assert job["params"]["mask_grow"] == 3
    assert job["image"] == {"width": 96, "height": 64, "format": "png", "mode": "rgb"}
    assert job["mask"]["mode"] == "luminance"
    assert job["mask"]["source"] == "mask"
    assert 0 < hole.mean() <= job["mask"]["coverage"] < 0.2
    assert set(job["seconds"]) == {"decode", "queue", "infer", "encode"}
    result = service.client.get(job["links"]["result"])
    assert result.status_code == 200
    assert pixels(result).shape == photo.shape
    assert result.headers["x-job-id"] == job["id"]


def test_a_result_is_the_same_wherever_it_is_asked_for(service, image, mask):
    first = service.post(image, mask)
    again = service.client.get(first.headers["content-location"])
    assert again.content == first.content
    for name in ("etag", "content-type", "x-model", "x-job-id", "server-timing", "cache-control"):
        assert again.headers[name] == first.headers[name]


def test_a_result_that_the_client_has_is_not_sent_again(service, image, mask):
    first = service.post(image, mask)
    location = first.headers["content-location"]
    same = service.client.get(location, headers={"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["etag"] == first.headers["etag"]
    other = service.client.get(location, headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


def test_a_wait_that_was_asked_for_is_confirmed(service, image, mask):
    answer = service.post(image, mask, headers={"Prefer": "wait=20"})
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=20"


def test_an_unknown_model_is_refused_with_the_names_that_are_held(service, image, mask):
    answer = service.post(image, mask, data={"model": "no-such-model"})
    body = answer.json()
    assert (answer.status_code, body["code"]) == (422, "unknown-model")
    assert "'no-such-model'" in body["detail"]
    assert "navier-stokes, telea" in body["detail"]
    assert body["errors"][0]["field"] == "model"


def test_a_job_that_failed_has_no_result_but_its_problem(service, image, encoded):
    black = encoded(np.zeros((64, 96), np.uint8))
    answer = service.post(image, black, headers={"Prefer": "respond-async"})
    job = finished(service, answer.headers["location"]).json()
    assert job["status"] == "failed"
    assert job["error"]["code"] == "mask-empty"
    assert job["error"]["type"] == "/problems/mask-empty"
    assert "result" not in job["links"]
    result = service.client.get(f"/jobs/{job['id']}/result")
    assert (result.status_code, result.json()["code"]) == (409, "job-failed")
    assert result.json()["job"]["error"] == job["error"]


@pytest.mark.parametrize("path", ["/jobs/{}", "/jobs/{}/result"])
def test_a_job_that_never_was_is_not_found_and_an_old_one_expired(service, path):
    for job_id, status, code in (
        (jobs.new_id(), 404, "not-found"),
        ("nonsense", 404, "not-found"),
        ("01700000-0000-7000-8000-000000000000", 410, "expired"),
    ):
        answer = service.client.get(path.format(job_id))
        assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_result_whose_file_was_swept_is_expired(service, image, mask):
    answer = service.post(image, mask)
    (service.settings.blob_folder / answer.headers["etag"].strip('"')).unlink()
    again = service.client.get(answer.headers["content-location"])
    assert (again.status_code, again.json()["code"]) == (410, "expired")


def test_info_tells_version_limits_formats_models_and_workers(service):
    info = service.client.get("/info").json()
    assert info["version"] == __version__
    assert info["default_model"] == "telea"
    assert info["limits"]["max_pixels"] == 40_000_000
    assert info["limits"]["max_file_bytes"] == 32 * 1024 * 1024
    assert info["formats"]["input"] == ["jpeg", "png", "webp", "tiff"]
    assert info["formats"]["output"] == ["same", "png", "jpeg", "webp", "tiff"]
    assert [model["name"] for model in info["models"]] == ["navier-stokes", "telea"]
    assert info["models"][0]["devices"] == ["cpu"]
    (worker,) = info["workers"]
    assert worker["device"] == "cpu"
    assert worker["engine"]
    assert worker["precision"]
    assert sorted(worker["models"]) == ["navier-stokes", "telea"]


def test_the_service_is_alive_and_ready(service):
    assert service.client.get("/livez").json() == {"status": "alive"}
    assert service.client.get("/readyz").json() == {"status": "ready"}


def test_a_tone_is_asked_for_by_names_and_a_scan_of_16_bits_stays_one(service, photo, mask, hole):
    scan = (photo // 2 + 60).astype(np.uint16) * 256 + 13
    image = cv2.imencode(".tiff", scan[..., ::-1])[1].tobytes()
    plain, toned = (service.post(image, mask, data={"tone": tone}) for tone in ("", "fade,denoise"))
    assert plain.headers["content-type"] == toned.headers["content-type"] == "image/tiff"
    job = service.client.get(f"/jobs/{toned.headers['x-job-id']}").json()
    assert job["params"]["tone"] == ["fade", "denoise"]
    assert job["image"]["mode"] == "rgb16"
    samples = [decode(answer.content).samples for answer in (plain, toned)]
    assert np.array_equal(samples[0][~hole], scan[~hole])
    assert np.ptp(samples[1]) > 1.5 * np.ptp(scan)


def test_openapi_describes_the_form_and_the_problems(service):
    described = service.client.get("/openapi.json").json()
    post = described["paths"]["/inpaint"]["post"]
    form = post["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["image"]
    assert form["additionalProperties"] is False
    assert form["properties"]["mask_feather"]["maximum"] == 128
    assert form["properties"]["refine"]["enum"] == ["auto", "none", "patches", "full"]
    assert form["properties"]["refine"]["default"] == "auto"
    assert form["properties"]["tone"]["type"] == "string"
    assert set(post["responses"]) == {"200", "202", "4XX", "5XX"}
    assert "application/problem+json" in post["responses"]["4XX"]["content"]
    assert {"/info", "/livez", "/readyz", "/jobs/{job_id}/result"} <= set(described["paths"])


def test_no_page_of_the_gateway_loads_anything_from_elsewhere(service):
    assert service.client.get("/docs").status_code == 404
    assert service.client.get("/redoc").status_code == 404
