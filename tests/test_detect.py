"""Training of detectors: losses by hand; a run killed, gone on with, exported, scored."""

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
from PIL import Image

from inpaint.errors import BadData, BadRecipe
from models.checkpoint import load_detector
from models.detector import DamageUNet
from training import calibration, commands, detect, detection, finding, state
from training.crops import IGNORED, UNIT
from training.damage import render
from training.injuries import UNSEEN
from training.recipe import Part

TINY = """
name = "tiny"
architecture = "damage-unet"
license = "CC0-1.0"
steps = 12
batch = 2
learning_rate = 2e-3
save_every = 4
log_every = 2
sample_every = 12

[detector]
widths = [4, 8]
stem = 2

[crops]
size = 64
scales = [1.0, 1.5]
damaged = 16
clean = 8
first = 4
fresh = 0.5
hard_from = 0.5
"""


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def labels(heads, weight=UNIT):
    """Labels (1,H,W,2) of rows of heads."""
    found = torch.tensor(heads, dtype=torch.uint8)[None]
    return torch.stack([found, torch.full_like(found, weight)], dim=-1)


def sure(heads, level=12.0):
    """Logits that say exactly these heads."""
    found = torch.tensor(heads)
    return torch.stack([torch.where(found == kind, level, -level) for kind in (1, 2, 3)])[None]


def test_what_is_right_costs_nothing():
    heads = [[0, 1, 1, 0], [2, 0, 3, 3]]

    assert detection.focal(sure(heads), labels(heads), gamma=1.5, alpha=0.75) < 1e-6
    assert detection.overlap(sure(heads), labels(heads)) < 1e-4


def test_the_focal_loss_by_hand():
    logits = torch.zeros(1, 3, 1, 2)  # probability 0.5 everywhere
    wanted = labels([[1, IGNORED]], weight=2 * UNIT)

    found = detection.focal(logits, wanted, gamma=2.0, alpha=0.75)

    each = 0.25 * np.log(2)  # (1 - p)^2 times the entropy
    assert found.item() == pytest.approx((2 * 0.75 * each + 2 * 0.25 * each) / 3)


def test_a_prediction_beside_damage_is_tolerated_one_farther_is_not():
    wanted = labels([[0, 0, 0, 1, 0, 0, 0, 0]] * 3)
    beside, farther = ([[0, 0, 1, 0, 0, 0, 0, 0]] * 3, [[0, 0, 0, 0, 0, 0, 1, 0]] * 3)

    assert detection.overlap(sure(beside), wanted) < 1e-3
    assert detection.overlap(sure(farther), wanted) > 0.99


def test_ignored_pixels_count_in_no_loss():
    wanted = labels([[IGNORED, 1, 0]])
    said = [[3, 1, 0]]

    assert detection.focal(sure(said), wanted, gamma=1.5, alpha=0.75) < 1e-6
    assert detection.overlap(sure(said), wanted) < 1e-4
    assert detection.fooled(sure(said), wanted).tolist() == [0]
    assert detection.fooled(sure([[3, 1, 2]]), wanted).item() == pytest.approx(1 / 3)


def test_the_shipped_recipe_is_named_after_its_file_and_builds_its_detector():
    path = Path(detection.__file__).parent / "recipes" / "scratches.toml"

    assert detection.is_detector(path)
    recipe = detection.load(path)
    assert recipe.name == path.stem
    assert detect.first_detector(recipe).config == DamageUNet.Config()


def keys(part):
    for name, field in part.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Part):
            yield from (f"{name}.{key}" for key in keys(inner))
        else:
            yield name


def test_every_key_of_a_recipe_is_documented():
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    text = text.partition("## Detectors")[2]

    assert [key for key in keys(detection.DetectorRecipe) if f"`{key}`" not in text] == []


def test_an_unknown_key_is_refused_by_name(tmp_path, recipe_file):
    recipe_file.write_text(TINY + "\nblur = 3\n")

    with pytest.raises(BadRecipe, match=r"crops\.blur"):
        detection.load(recipe_file)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("widths = [4, 8]", "widths = [4]", "two levels at least"),
        ("size = 64", "size = 66", "crops of 66 px"),
        ('"damage-unet"', '"telea"', "finds no damage"),
    ],
)
def test_networks_that_cannot_be_trained_are_refused(recipe_file, before, after, reason):
    text = TINY.replace(before, after)
    if "telea" in after:
        text = text.replace("widths = [4, 8]\nstem = 2", "")
    recipe_file.write_text(text)

    with pytest.raises(BadRecipe, match=reason):
        detect.first_detector(detection.load(recipe_file))


def test_the_rate_rises_and_falls_as_a_cosine(recipe_file):
    recipe = detection.load(recipe_file).model_copy(update={"steps": 100, "warmup": 10})

    assert recipe.rate_at(0) == pytest.approx(2e-4)
    assert recipe.rate_at(50) == pytest.approx(1e-3)
    assert recipe.rate_at(99) < 1e-5


def start(recipe_file, photographs, out):
    words = ["train", recipe_file, "--data", photographs, "--out", out, "--threads", 1]
    return subprocess.Popen(
        [sys.executable, "-m", "inpaint", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def children(pid):
    """Processes that a process has started, by number."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.slow
def test_a_run_killed_in_the_middle_goes_on_and_is_exported(
    recipe_file, photographs, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    monkeypatch.setattr(calibration, "SEEN", 2)  # renderings: fewer, for time
    monkeypatch.setattr(calibration, "UNSEEN_COUNT", 2)
    recipe_file.write_text(TINY.replace("steps = 12", "steps = 5000"))
    victim = start(recipe_file, photographs, out)
    while not (out / "state.pt").exists():
        assert victim.poll() is None, victim.stdout.read()
        time.sleep(0.01)
    renderers = children(victim.pid)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    saved = state.load(out, torch.device("cpu"))["step"]
    assert saved % 4 == 0

    recipe = detection.load(recipe_file).model_copy(update={"steps": saved + 6})
    told = []
    detect.train(recipe, (photographs,), out, report=told.append)

    assert told[0] == f"going on at step {saved} of {saved + 6}"
    lines = [json.loads(line) for line in (out / "scalars.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(2, saved + 7, 2))
    assert {"pixels", "overlap", "fooled", "rendered"} < set(lines[-1])
    assert (out / "curves.png").stat().st_size
    assert (out / "samples" / f"{saved + 6:07d}.png").stat().st_size
    while not all(map(gone, renderers)):  # they end with the run, however that ends
        time.sleep(0.05)

    with pytest.raises(BadData, match="name the run's with --data"):
        commands.export(out, tmp_path)
    commands.export(out, tmp_path, data=[photographs])
    network, header = load_detector(tmp_path / "tiny.safetensors")
    assert header.training["steps"] == saved + 6
    assert header.detection.thresholds[0] >= header.detection.thresholds[2]
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())

    with pytest.raises(BadRecipe, match="other values of seed"):
        detect.train(recipe.model_copy(update={"seed": 2}), (photographs,), out)


def answers(clear):
    """Renderings with logits that follow the label, more or less clearly."""
    rng = np.random.default_rng(0)
    found = []
    for seed in range(2):
        damaged = render(np.full((96, 96, 3), 110, np.uint8), seed, UNSEEN, ("crack", "dust"))
        noise = rng.normal(0, 1, (*damaged.mask.shape, 3)).astype(np.float32)
        logits = clear * np.where(damaged.mask, 2.0, -2.0)[..., None] + noise
        found.append(calibration.Answer(damaged, logits.astype(np.float32), noise - 4 * clear))
    return found


def test_the_temperature_undoes_overconfidence():
    honest = answers(1.0)
    bold = [calibration.Answer(one.damaged, one.found * np.float32(2), one.clean) for one in honest]

    ratio = calibration.best_temperature(bold) / calibration.best_temperature(honest)

    assert ratio == pytest.approx(2, rel=0.1)


def test_thresholds_fall_with_the_sensitivity():
    strict, usual, eager = calibration.calibrate(answers(1.5), answers(1.5)).thresholds

    assert 0 < eager <= usual <= strict < 1


def test_scores_and_a_sheet_of_scans(photographs, tmp_path, monkeypatch):
    torch.manual_seed(0)
    recipe = detection.DetectorRecipe.model_validate(
        {"name": "tiny", "architecture": "damage-unet", "license": "CC0-1.0", "steps": 1}
        | {"batch": 1, "learning_rate": 1e-3, "detector": {"widths": (4, 8)}}
    )
    network = detect.first_detector(recipe)
    header = commands.Header.of(
        network, name="tiny", license="CC0-1.0", detection=calibration.Detection()
    )
    path = tmp_path / "tiny.safetensors"
    commands.checkpoint.save(path, network, header)
    monkeypatch.setenv("INPAINT_MODEL", "telea")

    finding.evaluate(checkpoint=path, data=photographs, limit=2, to_json=tmp_path / "scores.json")
    finding.evaluate(
        checkpoint=path,
        real=photographs,
        sheet=tmp_path / "sheet.png",
        to_json=tmp_path / "real.json",
    )

    rows = json.loads((tmp_path / "scores.json").read_text())["tiny"]["unseen settings"]
    assert [row["method"] for row in rows[:3]] == [
        "tiny",
        "tiny, holes at 0.5",
        "top-hat / local contrast",
    ]
    assert rows[2]["ap"] > 0
    assert rows[1]["flagged"] == 0  # fresh weights find nothing
    shares = json.loads((tmp_path / "real.json").read_text())["real"]
    assert set(shares.values()) == {0.0}
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 3 * finding.CELL
