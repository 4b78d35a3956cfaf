import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_benchmark_prints_and_writes_its_figures(tmp_path):
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "inpaint", "bench", "serve"]

    ending = subprocess.run(
        [*command, "--requests", "3", "--json", str(file)],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert ending.returncode == 0, ending.stderr
    figures = json.loads(file.read_text())
    assert 0 < figures["overhead_ms_p50"] <= figures["overhead_ms_p95"]
    assert figures["overhead_ms_p50"] + figures["infer_ms_p50"] < 2 * figures["total_ms_p95"]
    assert 20 < figures["gateway_mb"] < 150 < figures["worker_mb"]
    assert [line.split()[0] for line in ending.stdout.splitlines()] == list(figures)
