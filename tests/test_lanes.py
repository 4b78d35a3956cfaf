"""A request beside an album: a whole worker in this process, with a real queue and real stages."""

import signal
import threading
import time

import numpy as np
import pytest

from inpaint.admission import admit
from inpaint.blobs import FolderBlobs
from inpaint.catalogue import Card
from inpaint.highres import SizeRule
from inpaint.jobs import InpaintJob
from worker.leases import BatchWorker
from worker.tasks import Workshop
from worker.zoo import Zoo

SECONDS = 30.0  # to wait for what must come
BEGUN = 12  # turns, after which the album's lane is full
TURNS = 18  # then, at most, until the request has ended


class Turns:
    """A filler that fills one window a turn."""

    rule = SizeRule(multiple=8, minimum=16, trained=32)
    learned = False
    batch_pixels = 32 * 32

    def __init__(self):
        self.turns, self.begun = threading.Semaphore(0), 0

    def load(self, pixels, holes):
        return pixels

    def run(self, loaded):
        self.begun += 1
        self.turns.acquire(timeout=SECONDS)
        return np.full_like(loaded, 128)


@pytest.fixture
def run(settings):
    """Run a worker with such stages in the main thread, until no job is left."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(filler):
        zoo = Zoo({"grey": filler}, {"grey": Card(name="grey", architecture="grey")})
        shop = Workshop(settings, FolderBlobs(settings.data), zoo)
        worker = BatchWorker(settings, ["grey"], shop)
        worker.work(burst=True, logging_level="WARNING")
        worker.connection.close()
        shop.close()

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.slow
def test_a_request_passes_an_album_whose_pictures_leave_no_room(
    run, redis, settings, encoded, eventually
):
    """Each picture has more windows than are filled meanwhile: only the request can end."""
    hole = np.zeros((512, 256), np.uint8)
    for row, column in np.ndindex(8, 4):
        hole[64 * row + 4 : 64 * row + 12, 64 * column + 4 : 64 * column + 12] = 255
    blobs, filler = FolderBlobs(settings.data), Turns()
    files = [blobs.put(encoded(pixels)) for pixels in (np.zeros((512, 256, 3), np.uint8), hole)]
    job = InpaintJob(image=files[0], mask=files[1], model="grey", output_format="png")
    small = [
        blobs.put(encoded(pixels)) for pixels in (np.zeros((64, 64, 3), np.uint8), hole[:64, :64])
    ]
    album = [admit(redis, job, settings, lane="bulk", share="album:1", size=1) for _ in range(14)]
    seen = []

    def status(job_id):
        return redis.hget(f"rq:job:{job_id}", "status").decode()

    def take_turns():
        try:
            for turn in range(BEGUN):
                eventually(lambda turn=turn: filler.begun > turn)
                filler.turns.release()
            one = InpaintJob(image=small[0], mask=small[1], model="grey")
            request = admit(redis, one, settings, lane="interactive", share="client:1", size=1)
            eventually(lambda: status(request) != "queued", seconds=10)  # without another turn
            for _ in range(TURNS):
                if status(request) == "finished":
                    break
                filler.turns.release()
                time.sleep(0.1)  # for all that is not the model's
            seen.extend(status(job_id) for job_id in (request, *album))
        finally:
            filler.turns.release(10_000)

    thread = threading.Thread(target=take_turns)
    thread.start()
    run(filler)
    thread.join()

    assert seen, "the request was not even claimed"
    assert seen[0] == "finished"
    assert set(seen[1:]) == {"queued", "started"}
    assert {status(job_id) for job_id in album} == {"finished"}
