"""`inpaint bench album` in its short form: the whole of it, on a few small scans."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

COUNT = 4
FIGURES = [
    "machine",
    "versions",
    "scans",
    "album_ratio",
    "album_images_per_s",
    "album_seconds",
    "album_megapixels_mean",
    "alone_seconds_per_image",
    "with_damage_found",
    "interactive_p95_ms_idle",
    "interactive_p95_ms_beside",
    "interactive_ratio",
    "redis_mb_while_running",
    "redis_kb_per_scan",
    "worker_mb",
    "archive_mb",
    "seconds",
]


@pytest.mark.slow
def test_an_album_of_scans_comes_back_whole_with_its_figures(tmp_path: Path):
    file = tmp_path / "figures.json"
    words = ["--count", COUNT, "--megapixels", 0.1, 0.3, "--seconds", 0.2, "--json", file]

    ending = subprocess.run(
        [sys.executable, "-m", "inpaint", "bench", "album", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=280,
    )

    assert ending.returncode == 0, ending.stdout + ending.stderr  # each scan came back once
    figures = json.loads(file.read_text())
    assert list(figures) == FIGURES
    assert figures["scans"] == COUNT
    assert 0 < figures["with_damage_found"] <= COUNT
    assert 0.1 <= figures["album_megapixels_mean"] < 0.3
    shares, used = np.transpose(figures["redis_mb_while_running"])
    assert (shares[0], shares[-1]) == (0, 1)
    assert (np.diff(shares) >= 0.1).all()
    assert figures["redis_kb_per_scan"] == pytest.approx((used[-1] - used[0]) * 1000 / COUNT)
    for name, value in figures.items():
        if isinstance(value, float):
            assert math.isfinite(value)
            assert value > 0 or name == "redis_kb_per_scan"
