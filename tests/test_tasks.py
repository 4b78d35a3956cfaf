"""Claims through a workshop with real stages, without a queue."""

import re
import threading
import time

import numpy as np
import pytest
from pydantic import ValidationError

from inpaint.blobs import FolderBlobs
from inpaint.catalogue import Card
from inpaint.errors import StorageUnavailable
from inpaint.highres import SizeRule
from inpaint.jobs import InpaintJob, Outcome
from inpaint.settings import Settings
from worker.leases import Claim
from worker.tasks import Workshop
from worker.zoo import Zoo

SECONDS = 30.0


class Grey:
    """A filler that paints grey, after doing what a test wants."""

    rule = SizeRule(whole=True)
    learned = False
    batch_pixels = 8 * 96 * 64

    def __init__(self, first=lambda: None):
        self.first = first

    def load(self, pixels, holes):
        return pixels

    def run(self, loaded):
        self.first()
        return np.full_like(loaded, 128)


@pytest.fixture
def blobs(tmp_path):
    return FolderBlobs(tmp_path)


@pytest.fixture
def shops(blobs):
    """Make workshops with one model, `grey`; they are closed after the test."""
    made = []

    def make(filler=None, store=blobs, **settings):
        card = Card(name="grey", architecture="grey", digest="sha256:0123456789abcdef")
        zoo = Zoo({"grey": filler or Grey()}, {"grey": card})
        made.append(Workshop(Settings(**settings), store, zoo))
        return made[-1]

    yield make
    for shop in made:
        shop.close()


def claim(image, mask, model="grey", *, lane="interactive", alone=False, age=0.0, **fields):
    payload = InpaintJob(image=image, mask=mask, model=model, **fields).model_dump(mode="json")
    return Claim(f"job of {model}", payload, lane, alone, time.monotonic() - age)


def endings(shop, count=1):
    """What the workshop hands back, by claim."""
    found = {}
    deadline = time.monotonic() + SECONDS
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} jobs have ended"
        found |= dict(shop.ended(0.1))
    return found


def outcome(shop, one):
    """Run one claim."""
    shop.take(one)
    return Outcome.model_validate(endings(shop)[one])


def test_a_job_ends_with_a_result_and_the_facts(shops, blobs, image, mask):
    ended = outcome(shops(), claim(blobs.put(image), blobs.put(mask)))

    assert blobs.get(ended.result).startswith(b"\x89PNG")
    assert ended.problem is None
    assert (ended.model, ended.digest) == ("grey", "sha256:0123456789abcdef")
    assert (ended.width, ended.height, ended.windows) == (96, 64, 1)
    assert (ended.mask_source, ended.mask_mode) == ("mask", "luminance")
    assert set(ended.seconds) == {"decode", "infer", "encode"}


def test_the_log_names_the_job_how_it_ended_and_its_seconds(shops, blobs, image, mask, caplog):
    caplog.set_level("INFO", logger="inpaint.worker")

    outcome(shops(), claim(blobs.put(image), blobs.put(mask)))

    (line,) = [record.getMessage() for record in caplog.records]
    number = r"\d+\.\d{3}"
    stages = f"decode {number} infer {number} encode {number}"
    assert re.fullmatch(f"job of grey grey: done in {number} s: {stages}", line)


def test_an_upload_that_is_gone_is_a_problem(shops, blobs, image):
    ended = outcome(shops(), claim(blobs.put(image), "0" * 32))

    assert ended.result is None
    assert ended.problem.code == "input-gone"


def test_a_model_that_is_not_held_is_a_problem_that_names_those_that_are(shops, blobs, image, mask):
    ended = outcome(shops(), claim(blobs.put(image), blobs.put(mask), model="other"))

    assert ended.problem.code == "unknown-model"
    assert ended.problem.field == "model"
    assert "grey" in ended.problem.detail
    assert ended.digest is None


def test_a_picture_that_cannot_be_decoded_is_a_problem_with_the_digest(shops, blobs, image, mask):
    ended = outcome(shops(), claim(blobs.put(image[:-200]), blobs.put(mask)))

    assert ended.problem.code == "image-unreadable"
    assert ended.digest == "sha256:0123456789abcdef"


def test_a_picture_beyond_the_limits_is_a_problem(shops, blobs, image, mask):
    ended = outcome(shops(max_pixels=1000), claim(blobs.put(image), blobs.put(mask)))

    assert ended.problem.code == "too-many-pixels"


def test_a_format_that_cannot_hold_the_result_is_a_problem(shops, blobs, encoded, photo, mask):
    half = np.full(photo.shape[:2], 100, np.uint8)
    image = encoded(np.dstack([photo, half]))

    ended = outcome(shops(), claim(blobs.put(image), blobs.put(mask), output_format="jpeg"))

    assert ended.problem.code == "invalid-field"
    assert ended.problem.field == "output_format"


def test_a_payload_of_another_version_is_no_outcome_and_harms_no_other(shops, blobs, image, mask):
    shop = shops()
    bad = Claim("bad", {"version": 1, "image": "0" * 32, "model": "grey"}, "bulk", False, 0.0)
    good = claim(blobs.put(image), blobs.put(mask))
    shop.take(bad)
    shop.take(good)

    ended = endings(shop, 2)

    assert isinstance(ended[bad], ValidationError)
    assert "result" in ended[good]


def test_a_bug_in_a_stage_is_handed_on_as_it_is(shops, blobs, image, mask):
    class Broken:
        def get(self, key):
            raise KeyError("bug")

    shop, one = shops(store=Broken()), claim(blobs.put(image), blobs.put(mask))
    shop.take(one)

    assert isinstance(endings(shop)[one], KeyError)


def test_what_the_model_raises_is_a_problem_of_the_picture(shops, blobs, image, mask, caplog):
    def fail():
        raise RuntimeError("shapes disagree")

    ended = outcome(shops(Grey(fail)), claim(blobs.put(image), blobs.put(mask)))

    assert ended.problem.code == "model-failed"
    assert "RuntimeError" in ended.problem.detail
    assert "shapes disagree" in caplog.text


def test_a_job_that_is_no_longer_live_is_dropped(shops, blobs, image, mask):
    first, second = (claim(blobs.put(image), blobs.put(mask)) for _ in range(2))
    shop = shops(Grey(lambda: setattr(first, "live", False)))
    second.live = False
    shop.take(first)
    shop.take(second)

    assert endings(shop, 2) == {first: None, second: None}


def test_what_nobody_will_have_leaves_no_file(shops, blobs, image, mask):
    shop, one = shops(), claim(blobs.put(image), blobs.put(mask))
    shop.take(one)
    ending = endings(shop)[one]
    assert len(list(blobs.folder.iterdir())) == 3
    for each in (ending, ValueError("a bug")):
        shop.discard(each)
    assert len(list(blobs.folder.iterdir())) == 2


def test_a_job_past_its_time_is_a_problem_that_states_the_limit(shops, blobs, image, mask):
    late = claim(blobs.put(image), blobs.put(mask), age=100.0)

    ended = outcome(shops(job_timeout_seconds=99), late)

    assert ended.problem.code == "timed-out"
    assert "99 s" in ended.problem.detail


def test_a_picture_that_does_not_fit_into_memory_is_a_problem(shops, blobs, image, mask):
    class Full:
        get = blobs.get

        def put(self, data):
            raise MemoryError

    ended = outcome(shops(store=Full()), claim(blobs.put(image), blobs.put(mask)))

    assert ended.problem.code == "out-of-memory"


def test_a_store_that_stays_away_is_a_problem_by_its_name(shops, blobs, image, mask):
    class Away:
        get = blobs.get

        def put(self, data):
            raise StorageUnavailable("the disk is full")

    ended = outcome(shops(store=Away()), claim(blobs.put(image), blobs.put(mask)))

    assert ended.problem.code == "storage-unavailable"
    assert ended.result is None


def test_many_jobs_at_once_all_end_each_with_its_own_result(shops, blobs, encoded, mask, hole):
    pictures = [np.full((*hole.shape, 3), value, np.uint8) for value in range(40)]
    claims = [claim(blobs.put(encoded(picture)), blobs.put(mask)) for picture in pictures]
    shop = shops()
    taken = 0
    ended = {}
    while len(ended) < len(claims):
        for _ in range(min(max(shop.room(0.05)), len(claims) - taken)):
            shop.take(claims[taken])
            taken += 1
        ended |= dict(shop.ended(0.01))

    for one, picture in zip(claims, pictures, strict=True):
        expected = picture.copy()
        expected[hole] = 128
        assert blobs.get(ended[one]["result"]) == encoded(
            expected, compress_level=1, compress_type=3
        )


def test_drain_waits_until_everything_is_handed_back(shops, blobs, image, mask):
    gate = threading.Event()
    shop = shops(Grey(lambda: gate.wait(SECONDS)))
    one = claim(blobs.put(image), blobs.put(mask))
    shop.take(one)
    drained = threading.Event()

    def drain():
        shop.drain()
        drained.set()

    threading.Thread(target=drain, daemon=True).start()
    assert not drained.wait(0.1)
    gate.set()
    assert not drained.wait(0.2)  # it has ended, and nobody has taken notice
    assert "result" in endings(shop)[one]
    assert drained.wait(SECONDS)


def test_nothing_under_way_is_drained_and_has_no_rate(shops):
    shop = shops()
    shop.drain()
    assert shop.ended(0) == []
    assert shop.stalled() == 0
    assert shop.rate() == 0


def test_the_rate_is_of_finished_jobs_while_busy(shops, blobs, image, mask):
    shop = shops(Grey(lambda: time.sleep(0.05)))
    for _ in range(4):
        outcome(shop, claim(blobs.put(image), blobs.put(mask)))
        time.sleep(0.2)  # idle: it does not count

    assert 0 < shop.rate() < 20


def test_a_suspect_is_alone(shops, blobs, image, mask):
    shop = shops(Grey(lambda: time.sleep(0.1)))

    shop.take(claim(blobs.put(image), blobs.put(mask), alone=True))

    assert shop.room(0) == (0, 0)
    endings(shop)
    assert all(shop.room(SECONDS))


@pytest.fixture
def refining(shops, blobs, encoded, eventually):
    """A workshop and its claim on a job whose huge hole is being refined."""
    hole = np.zeros((1600, 1600), np.uint8)
    hole[400:1200, 400:1200] = 255
    noise = np.random.default_rng(0).integers(0, 256, (*hole.shape, 3), dtype=np.uint8)
    shop = shops()
    files = (blobs.put(encoded(each, compress_level=0)) for each in (noise, hole))
    one = claim(*files, lane="bulk", refine="full")
    shop.take(one)
    eventually(lambda: shop._batching._refining)
    return shop, one


def test_a_job_that_is_canceled_while_its_fill_is_refined_goes_no_further(refining, blobs):
    shop, one = refining
    one.live = False
    assert endings(shop) == {one: None}
    shop.drain()
    assert len(list(blobs.folder.iterdir())) == 2


def test_the_time_limit_holds_while_a_fill_is_refined(refining):
    shop, one = refining
    one.began -= shop.settings.job_timeout_seconds
    assert endings(shop)[one]["problem"]["code"] == "timed-out"
