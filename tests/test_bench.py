"""Every part of `inpaint bench serve`, in its quick form, and the client that it measures with."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inpaint.errors import InpaintError
from service import bench, bench_client, bench_pictures

COMMAND = [sys.executable, "-m", "inpaint", "bench", "serve", "--quick"]
FIGURES = {
    "bare": ["ratio_to_bare", "images_per_s", "bare_images_per_s"],
    "compact": ["ratio_to_bare_compact"],
    "peer": ["ratio_to_litserve_32", "ratio_to_litserve_1", "p95_ms", "litserve_p95_ms"],
    "peer-cpu": ["ratio_to_litserve_32_cpu", "ratio_to_litserve_1_cpu"],
    "noop": ["noop_p50_ms", "noop_requests_per_s"],
    "specks": ["specks_ratio", "specks_refined_s"],
    "curves": ["curve_hole_area", "curve_hole_area_refined", "curve_photo_area"],
    "album": ["interactive_p95_ms_alone", "interactive_p95_ms_beside_album"],
    "memory": ["worker_rss_growth"],
    "overhead": ["overhead_ms_p50", "decode_ms_p50", "gateway_mb", "worker_mb"],
}


def test_every_part_has_its_figures_named_here():
    assert list(FIGURES) == list(bench.PARTS)


@pytest.mark.slow
@pytest.mark.parametrize("part", FIGURES)
def test_a_part_really_runs_and_writes_finite_figures(part: str, tmp_path: Path):
    file = tmp_path / "figures.json"

    ending = subprocess.run(
        [*COMMAND, "--only", part, "--json", str(file)], capture_output=True, text=True, timeout=280
    )

    assert ending.returncode == 0, ending.stdout + ending.stderr
    figures = json.loads(file.read_text())
    table = [line.split()[0] for line in ending.stdout.splitlines()[-len(figures) :]]
    assert table == list(figures)
    for name in FIGURES[part]:
        found = figures[name]
        for number in np.ravel(found):
            assert math.isfinite(number)
            assert number > 0 or name == "worker_rss_growth" or isinstance(found, list)
    assert {"machine", "versions", "seconds"} < set(figures)


def test_an_unknown_part_is_refused_with_those_that_there_are():
    ending = subprocess.run(
        [*COMMAND, "--only", "noop,nonsense"], capture_output=True, text=True, timeout=60
    )
    assert ending.returncode == 2
    assert "nonsense" in ending.stderr
    assert "peer-cpu" in ending.stderr


@pytest.mark.slow
def test_the_client_counts_what_many_connections_are_answered(service, image, mask):
    request = bench_client.post("/inpaint", {"image": image, "mask": mask}, {"mask_grow": "2"})

    answer = bench_client.ask(service.url, request)
    load = bench_client.load(service.url, [request], clients=4, seconds=0.2, least=12)

    bench_pictures.compare(image, mask, answer.body)
    assert answer.headers["content-type"] == "image/png"
    assert load.last.body == answer.body
    assert len(load.waits) >= 12
    assert 0 < load.wait_ms(50) <= load.wait_ms(95)


def test_the_client_does_not_count_refusals(service, image):
    request = bench_client.post("/inpaint", {"image": image, "mask": b"no picture"})
    with pytest.raises(InpaintError, match="422"):
        bench_client.load(service.url, [request], clients=2, seconds=0.1)


def test_a_changed_picture_is_found(image, mask, photo, encoded):
    bench_pictures.compare(image, mask, image)
    with pytest.raises(InpaintError, match="levels"):
        bench_pictures.compare(image, mask, encoded(255 - photo))
    with pytest.raises(InpaintError, match="size|came back"):
        bench_pictures.compare(image, mask, encoded(photo[:40]))
