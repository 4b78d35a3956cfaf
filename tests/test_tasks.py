import importlib

import numpy as np
import pytest
from pydantic import ValidationError

from inpaint.blobs import FolderBlobs
from inpaint.catalogue import Card
from inpaint.highres import SizeRule
from inpaint.jobs import INPAINT_TASK, InpaintJob, Outcome
from inpaint.settings import Settings
from worker import tasks
from worker.tasks import Workplace, equip, inpaint
from worker.zoo import Zoo


class Grey:
    rule = SizeRule(whole=True)

    def __call__(self, pixels, holes):
        return np.full_like(pixels, 128)


@pytest.fixture
def blobs(tmp_path):
    """The blobs of a workplace with one model, `grey`."""
    blobs = FolderBlobs(tmp_path)
    card = Card(name="grey", architecture="grey", digest="sha256:0123456789abcdef")
    equip(Workplace(Settings(), blobs, Zoo({"grey": Grey()}, {"grey": card})))
    return blobs


def run(image, mask, model="grey", **fields):
    payload = InpaintJob(image=image, mask=mask, model=model, **fields).model_dump(mode="json")
    return Outcome.model_validate(inpaint(payload))


def test_the_name_in_the_contract_is_this_function():
    module, _, name = INPAINT_TASK.rpartition(".")

    assert getattr(importlib.import_module(module), name) is inpaint


def test_a_job_ends_with_a_result_and_the_facts(blobs, image, mask):
    outcome = run(blobs.put(image), blobs.put(mask))

    assert blobs.get(outcome.result).startswith(b"\x89PNG")
    assert outcome.problem is None
    assert (outcome.model, outcome.digest) == ("grey", "sha256:0123456789abcdef")
    assert (outcome.width, outcome.height, outcome.windows) == (96, 64, 1)
    assert set(outcome.seconds) == {"decode", "infer", "encode"}


def test_an_upload_that_is_gone_is_a_problem(blobs, image):
    outcome = run(blobs.put(image), "0" * 32)

    assert outcome.result is None
    assert outcome.problem.code == "input-gone"


def test_a_model_that_is_not_held_is_a_problem_that_names_those_that_are(blobs, image, mask):
    outcome = run(blobs.put(image), blobs.put(mask), model="other")

    assert outcome.problem.code == "unknown-model"
    assert outcome.problem.field == "model"
    assert "grey" in outcome.problem.detail


def test_a_picture_that_cannot_be_decoded_is_a_problem_with_the_digest(blobs, image, mask):
    outcome = run(blobs.put(image[:-200]), blobs.put(mask))

    assert outcome.problem.code == "image-unreadable"
    assert outcome.digest == "sha256:0123456789abcdef"


def test_a_format_that_cannot_hold_the_result_is_a_problem(blobs, encoded, photo, mask):
    half = np.full(photo.shape[:2], 100, np.uint8)

    outcome = run(
        blobs.put(encoded(np.dstack([photo, half]))), blobs.put(mask), output_format="jpeg"
    )

    assert outcome.problem.code == "invalid-field"
    assert outcome.problem.field == "output_format"


def test_a_payload_of_another_version_is_no_outcome(blobs):
    with pytest.raises(ValidationError):
        inpaint({"version": 2, "image": "0" * 32, "model": "grey"})


def test_a_process_without_models_says_so(monkeypatch):
    monkeypatch.setattr(tasks, "_workplace", None)

    with pytest.raises(RuntimeError, match="inpaint worker"):
        inpaint({"image": "0" * 32, "model": "grey"})
