"""`inpaint bench train` on a tiny recipe."""

import json
import time

import numpy as np
import pytest

from inpaint.cli import main
from training import bench, data, recipe
from training.trainer import Sources, Trainer

TINY = """
name = "tiny"
architecture = "ARCHITECTURE"
license = "CC0-1.0"

[generator]
channels = 8
blocks = 1
rates = [1, 2]

[discriminator]
channels = 4

[holes]
files = 1.0

[losses]
perceptual = 0.1
style = 10.0
blur_kernel = 9

[[stages]]
steps = 1
size = 48
batch = 3
learning_rate = 1e-3
"""


@pytest.mark.slow
def test_figures_are_printed_and_written_as_json(tmp_path, capsys):
    for name in ("aotgan", "aotgan-compact"):
        (tmp_path / f"{name}.toml").write_text(TINY.replace("ARCHITECTURE", name))
    files = [str(tmp_path / f"{name}.toml") for name in ("aotgan", "aotgan-compact")]
    written = tmp_path / "figures.json"

    with pytest.raises(SystemExit) as end:
        main(["bench", "train", *files, "--seconds", "0", "--json", str(written)])

    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert printed.count("tiny ") == 2
    assert "in float32, channels first" in printed
    compared, other = json.loads(written.read_text())
    for row in (compared, other):
        assert (row["recipe"], row["size"], row["batch"]) == ("tiny", 48, 3)
        assert row["images_per_second"] == pytest.approx(3 / row["seconds_step"])
        assert 0 <= row["waiting"] < 1
        assert row["making"] > 0
    assert compared["speedup"] > 0
    assert other["speedup"] is other["seconds_float32"] is None


def test_large_squares_are_measured_smaller_and_a_run_of_any_length_is_long_enough():
    full = bench._endless(recipe.load(bench.RECIPES / "aotgan-512.toml")).stages
    assert [(stage.size, stage.batch) for stage in full] == [(256, 2)]
    compact = bench._endless(recipe.load(bench.RECIPES / "aotgan-compact-256.toml")).stages
    assert [(stage.size, stage.batch) for stage in compact] == [(256, 6)]


def test_what_a_loader_takes_longer_than_the_step_is_waiting(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.replace("ARCHITECTURE", "aotgan-compact").replace("48", "32"))
    tiny = bench._endless(recipe.load(path))
    plain = tiny.losses.model_copy(update={"perceptual": 0.0, "style": 0.0})
    tiny = tiny.model_copy(update={"holes": recipe.Holes(), "losses": plain})
    material = data.Material([np.zeros((64, 64, 3), np.uint8)])

    class Slow:
        def next(self) -> data.Batch:
            time.sleep(0.2)
            return data.make_batch(material, tiny, 0)

    steps = bench._time_steps(Trainer(tiny, Sources(())), Slow(), 0)  # type: ignore[arg-type]  # as a loader

    assert len(steps) >= 3
    for whole, waited in steps:
        assert 0.2 <= waited < whole
