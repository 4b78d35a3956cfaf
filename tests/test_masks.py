"""Damage that is found over real HTTP, by a worker whose detector takes white for damage."""

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from inpaint import catalogue, jobs
from inpaint.catalogue import Card, WorkerCard
from inpaint.mask import grow
from inpaint.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finder(server, start_service, tmp_path_factory, white_detector):
    """A service that holds a detector, `telea`, and a checkpoint folder of its own."""
    settings = Settings(data=tmp_path_factory.mktemp("finder"), redis_url=server.url(5))
    variables = {
        "INPAINT_CHECKPOINTS": str(white_detector),
        "INPAINT_MODELS": "telea,scratches",
    }
    with start_service(settings, worker=True, **variables) as running:
        yield running


@pytest.fixture(scope="module")
def scan(encoded, scratched):
    """A scratched photograph as a PNG."""
    return encoded(scratched[0])


FIND = {"auto_mask": "scratches"}


def pixels_of(data):
    return np.asarray(Image.open(BytesIO(data)))


def search(service, image, data=None, **options):
    """POST /masks."""
    files = {"image": ("scan.png", image)}
    return service.client.post("/masks", files=files, data=data or {}, **options)


def job_of(service, answer):
    return service.client.get(f"/jobs/{answer.headers['x-job-id']}").json()


def test_a_scan_without_a_mask_comes_back_with_its_damage_filled(finder, scan, scratched):
    pixels, damage = scratched

    answer = finder.post(scan, data=FIND)

    assert answer.status_code == 200, answer.text
    result, hole = pixels_of(answer.content), grow(damage, 2)
    assert np.array_equal(result[~hole], pixels[~hole])
    assert (result[damage] < 220).all()
    assert answer.headers["x-model"] == "telea"
    assert "detect;dur=" in answer.headers["server-timing"]
    job = job_of(finder, answer)
    assert job["mask"] == {"mode": None, "coverage": hole.mean(), "source": "scratches"}
    assert (job["unchanged"], job["warning"]) == (False, None)
    assert job["params"] | {"auto_mask": "scratches", "mask_grow": None} == job["params"]
    mask = finder.client.get(job["links"]["mask"])
    assert mask.headers["content-type"] == "image/png"
    assert np.array_equal(pixels_of(mask.content) == 255, hole)


def test_what_is_found_joins_a_mask_that_is_sent(finder, scan, scratched, mask, hole):
    answer = finder.post(scan, mask, data=FIND | {"mask_grow": "1"})

    job = job_of(finder, answer)
    assert (job["mask"]["source"], job["mask"]["mode"]) == ("mask+scratches", "luminance")
    used = pixels_of(finder.client.get(job["links"]["mask"]).content)
    assert np.array_equal(used == 255, grow(scratched[1] | hole, 1))


def test_a_mask_is_proposed_in_eight_bits_and_nothing_is_filled(finder, scan, scratched):
    answer = search(finder, scan)

    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    found = Image.open(BytesIO(answer.content))
    assert (found.mode, found.size) == ("L", (96, 64))
    assert np.array_equal(np.asarray(found), scratched[1] * np.uint8(255))
    assert answer.headers["x-model"] == "scratches"
    assert answer.headers["x-model-digest"].startswith("sha256:")
    job = job_of(finder, answer)
    assert job["mask"]["source"] == "scratches"
    assert finder.client.get(job["links"]["mask"]).content == answer.content


def test_a_proposed_mask_comes_back_as_a_mask(finder, scan):
    once = finder.post(scan, data=FIND)

    twice = finder.post(scan, search(finder, scan, {"mask_grow": "2"}).content)

    assert np.array_equal(pixels_of(twice.content), pixels_of(once.content))


def test_a_mask_may_be_asked_for_and_fetched_later(finder, scan, eventually, scratched):
    answer = search(finder, scan, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    place = answer.headers["location"]

    eventually(lambda: finder.client.get(place).json()["status"] == "succeeded")

    for name in ("result", "mask"):
        found = finder.client.get(f"{place}/{name}")
        assert np.array_equal(pixels_of(found.content) == 255, scratched[1])
        known = {"If-None-Match": found.headers["etag"]}
        assert finder.client.get(f"{place}/{name}", headers=known).status_code == 304


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_photograph_without_damage_comes_back_byte_for_byte(finder, encoded, photo, kind):
    sent = encoded(np.minimum(photo, 200), kind)

    answer = finder.post(sent, data=FIND)

    assert answer.status_code == 200, answer.text
    assert answer.content == sent
    assert answer.headers["content-type"] == f"image/{kind.lower()}"
    job = job_of(finder, answer)
    assert (job["unchanged"], job["mask"]["coverage"]) == (True, 0)
    assert not pixels_of(finder.client.get(job["links"]["mask"]).content).any()


def test_a_photograph_that_is_all_damage_is_refused_and_its_mask_shown(finder, encoded):
    white = encoded(np.full((64, 64, 3), 255, np.uint8))

    answer = finder.post(white, data=FIND)
    assert (answer.status_code, answer.json()["code"]) == (422, "mask-full")

    mask = search(finder, white)
    assert mask.status_code == 200
    assert job_of(finder, mask)["warning"] == "mask-large"


@pytest.mark.parametrize(
    ("data", "field"),
    [({"auto_mask_sensitivity": value}, "auto_mask_sensitivity") for value in ("1.5", "-0.1")]
    + [({"auto_mask_sensitivity": value}, "auto_mask_sensitivity") for value in ("nan", "high")]
    + [({"auto_mask": "dust"}, "auto_mask"), ({"mask_only": "true"}, "mask_only")],
)
def test_a_field_out_of_range_is_named(finder, scan, data, field):
    answer = finder.post(scan, data=FIND | data)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-field")
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("data", "field"),
    [({"sensitivity": "2"}, "sensitivity"), ({"mask_grow": "129"}, "mask_grow")]
    + [({"auto_mask": "scratches"}, "auto_mask"), ({"model": "telea"}, "model")],
)
def test_a_field_of_a_search_is_named_likewise(finder, scan, data, field):
    answer = search(finder, scan, data)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-field")
    assert answer.json()["errors"][0]["field"] == field


def test_a_search_takes_no_mask_and_needs_an_image(finder, scan):
    files = {"image": ("a.png", scan), "mask": ("b.png", scan)}
    answer = finder.client.post("/masks", files=files)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "mask")

    answer = finder.client.post("/masks", data={"sensitivity": "0.5"}, files={"mask": b""})
    assert answer.status_code == 422
    assert "image" in [fault["field"] for fault in answer.json()["errors"]]
    truncated = search(finder, scan[:200])
    assert (truncated.status_code, truncated.json()["code"]) == (422, "image-unreadable")


def test_detectors_and_models_are_not_taken_for_each_other(finder, scan, mask):
    told = finder.client.get("/info").json()
    assert [model["name"] for model in told["models"]] == ["telea"]
    assert [(found["name"], found["architecture"]) for found in told["detectors"]] == [
        ("scratches", "damage-unet")
    ]
    assert told["workers"][0]["detectors"] == ["scratches"]

    fills = finder.post(scan, mask, data={"model": "scratches"})
    assert (fills.status_code, fills.json()["code"]) == (422, "unknown-model")
    assert fills.json()["detail"].endswith("the models are telea.")
    finds = search(finder, scan, {"detector": "telea"})
    assert (finds.status_code, finds.json()["code"]) == (422, "unknown-model")
    assert finds.json()["detail"].endswith("the detectors are: scratches.")


def test_without_a_detector_that_is_said(service, image):
    answers = [service.post(image, data=FIND), search(service, image)]

    for answer, field in zip(answers, ("auto_mask", "detector"), strict=True):
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown-model")
        assert answer.json()["detail"].endswith("the detectors are: none.")
        assert answer.json()["errors"][0]["field"] == field


def test_a_model_and_a_detector_that_no_worker_holds_together_are_no_worker(
    finder, scan, eventually
):
    apart = WorkerCard(
        worker="apart",
        pid=1,
        device="cpu",
        engine="none",
        precision="fp32",
        models=(Card(name="lonely", architecture="telea"),),
    )
    with jobs.connect(finder.settings) as redis:
        catalogue.publish(redis, apart)
        try:
            answer = None

            def asked():
                nonlocal answer
                catalogue.publish(redis, apart)
                answer = finder.post(scan, data=FIND | {"model": "lonely"})
                return answer.status_code == 503

            eventually(asked)
        finally:
            catalogue.withdraw(redis, "apart")
    assert answer.json()["code"] == "no-worker"
    assert "both scratches and lonely" in answer.json()["detail"]


def test_the_mask_of_a_job_that_searched_for_nothing_is_not_found(finder, image, mask):
    answer = finder.post(image, mask)

    job = job_of(finder, answer)
    assert "mask" not in job["links"]
    asked = finder.client.get(f"{job['links']['self']}/mask")
    assert (asked.status_code, asked.json()["code"]) == (404, "not-found")
    assert "searched for no damage" in asked.json()["detail"]


def test_many_at_once_beside_ordinary_jobs_are_as_one_by_one(finder, encoded, scratched, mask):
    scans = [encoded(np.roll(scratched[0], 4 * shift, axis=1)) for shift in range(12)]
    kinds = [
        lambda scan: finder.post(scan, data=FIND),
        lambda scan: search(finder, scan),
        lambda scan: finder.post(scan, mask),
    ]
    calls = [(kinds[number % 3], scan) for number, scan in enumerate(scans)]
    alone = [call(scan).content for call, scan in calls]

    with ThreadPoolExecutor(len(calls)) as clients:
        answers = list(clients.map(lambda call: call[0](call[1]), calls))

    for answer, before in zip(answers, alone, strict=True):
        assert answer.status_code == 200, answer.text
        assert answer.content == before


def test_a_scan_of_several_tiles_is_found_whole(finder, encoded):
    pixels = np.full((900, 1100, 3), 90, np.uint8)
    pixels[300:303, 40:1060] = pixels[20:880, 700:702] = 255
    damage = (pixels == 255).all(axis=2)

    found = pixels_of(search(finder, encoded(pixels)).content) == 255

    assert found[damage].all()
    assert not found[~grow(damage, 4)].any()  # corners of the crossing are closed
