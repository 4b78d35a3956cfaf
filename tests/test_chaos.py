"""`inpaint bench chaos` and `inpaint bench album-chaos` in their short forms."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_accepted_jobs_survive_killed_workers_and_a_killed_server(tmp_path: Path):
    file = tmp_path / "figures.json"
    faults = ["--worker-kills", "2", "--redis-kills", "1"]
    faults += ["--zombies", "0", "--redis-hangs", "0", "--gateway-kills", "0", "--lease", "1"]

    ending = subprocess.run(
        [sys.executable, "-m", "inpaint", "bench", "chaos", "--jobs", "60", *faults]
        + ["--json", str(file)],
        capture_output=True,
        text=True,
        timeout=280,
    )

    assert ending.returncode == 0, ending.stdout + ending.stderr
    figures = json.loads(file.read_text())
    assert figures["accepted"] >= 60
    assert figures["finished"] == figures["accepted"]
    assert figures["lost"] == figures["failed"] == figures["wrong"] == 0
    assert figures["results_per_job_max"] == 1
    assert (figures["worker_kills"], figures["redis_kills"]) == (2, 1)


@pytest.mark.slow
def test_an_album_survives_killed_parts_and_broken_files(tmp_path: Path):
    file = tmp_path / "figures.json"

    ending = subprocess.run(
        [sys.executable, "-m", "inpaint", "bench", "album-chaos", "--count", "16"]
        + ["--model", "telea", "--json", str(file)],
        capture_output=True,
        text=True,
        timeout=280,
    )

    assert ending.returncode == 0, ending.stdout + ending.stderr
    figures = json.loads(file.read_text())
    assert (figures["status"], figures["good"], figures["broken"]) == ("partial", 16, 10)
    assert 4 <= figures["unchanged"] <= 16  # those without damage, and where none is found
    kills = [figures[f"{part}_kills"] for part in ("worker", "gateway", "redis")]
    assert kills == [2, 1, 1]
