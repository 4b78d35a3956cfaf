"""Variants of a recipe: what they override, equal compute, and that a killed one goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import training
from inpaint import cli
from inpaint.errors import BadRecipe
from training import ablations, state
from training.evaluate import bucket_of

RECIPES = Path(training.__file__).parent / "recipes"
TINY = """
name = "tiny"
architecture = "aotgan-compact"
license = "CC0-1.0"
generator = { width = 4, channels = 8, blocks = 1, rates = [1, 2] }
losses = { perceptual = 0.0, style = 0.0 }
save_every = 2
log_every = 1

[[stages]]
steps = 3
size = 32
batch = 2
learning_rate = 1e-3
adversarial = false
"""
VARIANTS = """
[all]
crops = { smallest = 24 }

[base]

[heavy-hole]
losses = { hole = 9.0 }
stage = { batch = 1 }
"""


@pytest.fixture
def files(tmp_path):
    """A recipe and its variants."""
    paths = tmp_path / "tiny.toml", tmp_path / "variants.toml"
    for path, text in zip(paths, (TINY, VARIANTS), strict=True):
        path.write_text(text)
    return paths


@pytest.fixture
def command(files, photographs, feature_folder, tmp_path):
    """The words of the command, with runs in the folder `runs`."""
    recipe, variants = files
    options = {
        "variants": variants,
        "data": photographs,
        "kept-out": photographs,
        "features": feature_folder,
        "out": tmp_path / "runs",
        "json": tmp_path / "figures.json",
        "cpu-seconds": 1,
        "size": 64,
        "limit": 2,
        "threads": 1,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["bench", "ablations", str(recipe), *words]


def test_a_variant_differs_in_what_its_table_and_that_of_all_override(files):
    found = ablations.read_variants(*files)
    base, heavy = found["base"], found["heavy-hole"]
    assert (base.name, heavy.name) == ("base", "heavy-hole")
    assert (base.crops.smallest, heavy.crops.smallest) == (24, 24)
    assert (base.losses.hole, heavy.losses.hole) == (3.0, 9.0)
    assert heavy.losses.perceptual == 0.0  # the rest of a table stays
    assert [stage.batch for stage in (*base.stages, *heavy.stages)] == [2, 1]
    assert base.steps == heavy.steps > 100_000


def test_the_shipped_variants_are_recipes():
    found = ablations.read_variants(RECIPES / "aotgan-compact-256.toml", ablations.SHIPPED)
    assert "base" in found
    assert len({recipe.model_dump_json() for recipe in found.values()}) == len(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[base]\nlosses = { hule = 1 }\n", "variant base of .*losses.hule: .*not permitted"),
        ("[base]\nstage = { batch = 0 }\n", "variant base of .*stages.0.batch"),
        ("[Base]\n", "variant Base of .*name"),
        ("base = 1\n", "not a table for each variant"),
        ("[all]\n", "not a table for each variant"),
        ("[base\n", "variants .*variants.toml"),
    ],
)
def test_what_is_no_variant_is_refused_by_name(text, said, files):
    recipe, variants = files
    variants.write_text(text)
    with pytest.raises(BadRecipe, match=said):
        ablations.read_variants(recipe, variants)


def test_holes_are_always_the_same_and_of_their_band():
    one, two, fewer = (ablations.draw_holes(64, count) for count in (5, 5, 2))
    assert list(one) == list(ablations.BANDS)
    for band, holes in one.items():
        assert [bucket_of(hole.mean()) for hole in holes] == [band] * 5
        assert np.array_equal(holes, two[band])
        assert np.array_equal(holes[:2], fewer[band])


def run(command, *more):
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, *more])
    return ended.value.code


def test_variants_take_equal_compute_and_are_scored(command, files, tmp_path, capsys):
    assert run(command, "--only", "heavy-hole", "--only", "base") == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures) == ["heavy-hole", "base"]
    for found in figures.values():
        assert 1 <= found["cpu_seconds"] < 1.5
        assert found["steps"] > 2
        assert list(found["scores"]) == ["none", "patches"]
        for bands in found["scores"].values():
            assert list(bands) == list(ablations.BANDS)
            assert all(set(row) == {"psnr", "lpips", "lpips_alex"} for row in bands.values())
    assert figures["heavy-hole"]["images"] == figures["heavy-hole"]["steps"]
    assert figures["base"]["images"] == 2 * figures["base"]["steps"]
    assert "refine patches" in capsys.readouterr().out

    assert run(command) == 0  # nothing is left to be done
    again = json.loads((tmp_path / "figures.json").read_text())
    assert again == figures

    recipe, _ = files
    recipe.write_text(TINY.replace("channels = 8", "channels = 16"))
    assert run(command) == 1
    assert "the saved run has other values of generator" in capsys.readouterr().err


def test_an_unknown_variant_is_refused(command, capsys):
    assert run(command, "--only", "wider") == 1
    assert "has no variant wider; it has base, heavy-hole" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_variant_goes_on_with_the_compute_that_is_left(command, tmp_path):
    folder = tmp_path / "runs" / "base"
    words = [sys.executable, "-m", "inpaint", *command, "--only", "base"]
    victim = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (folder / state.FILE).exists():
        assert victim.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    before = state.load(folder, torch.device("cpu"))
    assert run([*command, "--only", "base"]) == 0
    after = state.load(folder, torch.device("cpu"))
    assert before["step"] < after["step"]
    assert before["cpu"] < 1 <= after["cpu"] < 1.5
