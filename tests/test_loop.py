"""Training on drawn photographs: resumed after a real kill, exported, begun from a checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from inpaint.errors import BadData, BadRecipe
from models import checkpoint
from models.registry import create
from training import commands, features, loop, state
from training.recipe import Recipe, load

STEPS = 36
TINY = """
name = "tiny"
architecture = "aotgan-compact"
license = "CC0-1.0"
license_note = "drawn photographs"
data = "drawn"
warmup = 4
save_every = 4
log_every = 2
sample_every = 12

[generator]
width = 8
channels = 8
blocks = 1
rates = [1, 2]

[discriminator]
channels = 4

[losses]
perceptual = 0.0
style = 0.0
blur_kernel = 9
blur_sigma = 1.5

[crops]
smallest = 24

[[stages]]
steps = 8
size = 32
batch = 3
learning_rate = 2e-3
adversarial = false

[[stages]]
steps = 28
size = 48
batch = 2
learning_rate = 2e-3
final_rate = 5e-4
"""


@pytest.fixture
def photographs(tmp_path):
    """A folder of smooth drawn photographs."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed in range(4):
        coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC)
        picture.save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def recipe(recipe_file):
    return load(recipe_file)


@pytest.fixture
def sources(photographs):
    return loop.Sources(data=(photographs,))


def shortened(recipe, steps):
    """The recipe's second stage alone, for a few steps."""
    stage = recipe.stages[1].model_copy(update={"steps": steps})
    return recipe.model_copy(update={"stages": (stage,), "sample_every": 1000})


def start(recipe_file, photographs, out):
    """Start the real command in a process of its own."""
    words = ["train", recipe_file, "--data", photographs, "--out", out, "--threads", 1]
    return subprocess.Popen(
        [sys.executable, "-m", "inpaint", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def scalars(out):
    """The logged lines without the times, which no two runs share."""
    lines = [json.loads(line) for line in (out / "scalars.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def equal(a, b):
    """Whether two nested states hold the same bits."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.slow
def test_a_run_killed_in_the_middle_goes_on_bit_for_bit(recipe_file, photographs, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(recipe_file, photographs, whole))

    victim = start(recipe_file, photographs, killed)
    deadline = time.monotonic() + 120
    log = killed / "scalars.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 7):  # step 14, behind the save at 12
        assert victim.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    saved = state.load(killed, torch.device("cpu"))["step"]
    assert 12 <= saved < STEPS

    assert f"going on at step {saved} of {STEPS}" in finish(start(recipe_file, photographs, killed))
    one, two = (state.load(out, torch.device("cpu")) for out in (whole, killed))
    assert one["step"] == two["step"] == STEPS
    for part in ("generator", "averaged", "discriminator"):
        assert equal(one[part], two[part]), part
    for part in ("generator_optimizer", "discriminator_optimizer"):
        assert equal(one[part], two[part]), part
    assert scalars(killed) == scalars(whole)
    assert [line["step"] for line in scalars(whole)] == list(range(2, STEPS + 1, 2))
    sheets = [(out / "samples" / f"{STEPS:07d}.png").read_bytes() for out in (whole, killed)]
    assert sheets[0] == sheets[1]
    assert (killed / "curves.png").stat().st_size > 0


def test_a_finished_run_started_again_changes_nothing(recipe, sources, tmp_path):
    short, out = shortened(recipe, 4), tmp_path / "run"
    loop.train(short, sources, out)
    before = (out / "state.pt").read_bytes(), (out / "scalars.jsonl").read_bytes()
    loop.train(short, sources, out)
    assert ((out / "state.pt").read_bytes(), (out / "scalars.jsonl").read_bytes()) == before


def test_a_prolonged_recipe_goes_on_and_another_one_is_refused(recipe, sources, tmp_path):
    out = tmp_path / "run"
    loop.train(shortened(recipe, 4), sources, out)
    loop.train(shortened(recipe, 6), sources, out)
    assert state.load(out, torch.device("cpu"))["step"] == 6
    changed = shortened(recipe, 8).model_copy(update={"seed": 9, "clip": 0.5})
    with pytest.raises(BadRecipe, match="other values of seed, clip"):
        loop.train(changed, sources, out)


def test_lines_behind_the_saved_step_are_cut_off(tmp_path):
    path = tmp_path / "scalars.jsonl"
    path.write_text('{"step": 2, "a": 1}\n{"step": 4, "a": 2}\n{"step": 6, "a": 3}\n{"step": 8, "a')
    loop._cut(path, 4)
    assert path.read_text() == '{"step": 2, "a": 1}\n{"step": 4, "a": 2}\n'


def test_training_lowers_the_error_in_the_hole(recipe, sources, tmp_path):
    stage = recipe.stages[0].model_copy(update={"steps": 120})
    longer = recipe.model_copy(update={"stages": (stage,), "sample_every": 1000, "log_every": 10})
    loop.train(longer, sources, tmp_path / "run")
    errors = [line["hole_error"] for line in scalars(tmp_path / "run")]
    assert sum(errors[-3:]) / 3 < 0.7 * errors[0]


def test_a_stage_without_the_discriminator_leaves_it_alone(recipe, sources, tmp_path):
    trainer = loop.Trainer(recipe, sources)
    before = {name: value.clone() for name, value in trainer.discriminator.state_dict().items()}
    photographs = loop.data.read(sources.data, longest=96).pixels
    first = trainer.step(loop.data.make_batch(photographs, recipe, 0), 0)
    assert "adversarial" not in first
    assert equal(before, dict(trainer.discriminator.state_dict()))
    later = trainer.step(loop.data.make_batch(photographs, recipe, 8), 8)
    assert {"adversarial", "feature_matching", "discriminator"} <= later.keys()
    assert not equal(before, dict(trainer.discriminator.state_dict()))


def test_the_generators_loss_leaves_no_gradient_in_the_discriminator(recipe, sources):
    trainer = loop.Trainer(recipe, sources)
    photographs = loop.data.read(sources.data, longest=96).pixels
    image, mask = trainer.tensors_of(loop.data.make_batch(photographs, recipe, 8))
    fill = trainer.generator(image, mask)
    found = trainer._adversarial_losses(fill, image, mask)
    (found["adversarial"] + found["feature_matching"]).backward()
    assert all(weights.grad is None for weights in trainer.discriminator.parameters())
    assert all(weights.grad is not None for weights in trainer.generator.parameters())


def test_a_loss_that_is_no_number_stops_the_run_before_the_weights_change(recipe, sources):
    trainer = loop.Trainer(recipe, sources)
    photographs = loop.data.read(sources.data, longest=96).pixels
    with torch.no_grad():
        trainer.generator.head.bias[0] = torch.nan
    before = trainer.generator.stem.weight.clone()
    with pytest.raises(BadData, match="step 0: the loss is not a number"):
        trainer.step(loop.data.make_batch(photographs, recipe, 0), 0)
    assert torch.equal(trainer.generator.stem.weight, before)


def test_perceptual_losses_use_the_given_features(recipe, sources, tmp_path):
    torch.manual_seed(0)
    weights = features.FeatureNetwork("squeeze", ["fire7"]).state_dict()
    save_file(weights, tmp_path / "squeeze.safetensors")
    weigh = recipe.losses.model_copy(update={"perceptual": 0.1, "style": 10.0})
    wanted = recipe.model_copy(update={"losses": weigh})
    with pytest.raises(BadData, match="name squeeze weights with --features"):
        loop.Trainer(wanted, sources)
    given = loop.Sources(data=sources.data, features=tmp_path / "squeeze.safetensors")
    trainer = loop.Trainer(wanted, given)
    photographs = loop.data.read(sources.data, longest=96).pixels
    found = trainer.step(loop.data.make_batch(photographs, wanted, 8), 8)
    assert found["perceptual"] > 0
    assert found["style"] > 0


def test_samples_show_photo_masked_and_filled_with_the_known_region_unchanged(
    recipe, sources, tmp_path
):
    trainer = loop.Trainer(recipe, sources)
    photographs = loop.data.read(sources.data, longest=96).pixels
    loop.draw_samples(trainer, photographs, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    gap, side = 4, 48
    photo, masked, filled = (
        sheet[gap : gap + side, gap + n * (gap + side) :][:, :side] for n in range(3)
    )
    hole = (masked == 255).all(2) & (photo != 255).any(2)
    assert 0 < hole.mean() < 1
    assert np.array_equal(photo[~hole], filled[~hole])
    assert not np.array_equal(photo[hole], filled[hole])


def test_a_recipe_with_mask_files_trains_and_draws_its_samples(recipe, photographs, tmp_path):
    white = np.zeros((48, 48), np.uint8)
    white[10:30, 10:30] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    wanted = recipe.holes.model_copy(update={"strokes": 0.0, "boxes": 0.0, "files": 1.0})
    sources = loop.Sources(data=(photographs,), masks=(tmp_path / "mask.png",))
    short = shortened(recipe, 2).model_copy(update={"holes": wanted})
    run = loop.train(short, sources, tmp_path / "run")
    sheet = np.asarray(Image.open(run / "samples" / "0000002.png"))
    masked = sheet[4:52, 56:104]
    assert (masked == 255).all(2).sum() >= 400


def test_a_recipe_may_name_another_source_than_its_architecture(recipe, sources, tmp_path):
    for source, expected in (("", "after AOT-GAN, arXiv:2104.01431"), ("doi:1", "doi:1")):
        named = shortened(recipe, 2).model_copy(update={"source": source})
        run = loop.train(named, sources, tmp_path / f"run {source[:3]}")
        commands.export(run, tmp_path)
        assert checkpoint.read_header(tmp_path / "tiny.safetensors").source == expected


def test_an_exported_run_loads_and_fills_equally(recipe, sources, tmp_path):
    run = loop.train(shortened(recipe, 4), sources, tmp_path / "run")
    commands.export(run, tmp_path / "full", half=False)
    commands.export(run, tmp_path / "half")
    saved = state.load(run, torch.device("cpu"))
    trained = create(recipe.architecture, recipe.generator)
    trained.load_state_dict(saved["averaged"])
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(1, 1, 32, 48)
    mask[..., 8:24, 10:30] = 1
    full, header = checkpoint.load(tmp_path / "full" / "tiny.safetensors")
    half, _ = checkpoint.load(tmp_path / "half" / "tiny.safetensors")
    with torch.no_grad():
        expected = trained.eval()(image, mask)
        assert torch.equal(full(image, mask), expected)
        assert torch.allclose(half(image, mask), expected, atol=5e-3)
    assert header.license == "CC0-1.0"
    assert header.training["steps"] == 4
    assert header.training["images"] == 8
    assert header.training["recipe"]["stages"][0]["size"] == 48


def test_scores_are_kept_in_the_header(recipe, sources, tmp_path):
    run = loop.train(shortened(recipe, 2), sources, tmp_path / "run")
    scores = {"tiny": {"01-10": {"psnr": 30.0}}, "telea": {"01-10": {"psnr": 29.0}}}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    commands.export(run, tmp_path, scores=tmp_path / "scores.json")
    assert checkpoint.read_header(tmp_path / "tiny.safetensors").scores == scores["tiny"]


def test_a_folder_without_a_state_cannot_be_exported(tmp_path):
    with pytest.raises(BadData, match="holds no training state"):
        commands.export(tmp_path, tmp_path / "out")


def test_init_begins_with_the_weights_of_a_checkpoint(recipe, sources, tmp_path):
    run = loop.train(shortened(recipe, 4), sources, tmp_path / "run")
    commands.export(run, tmp_path, half=False)
    published = tmp_path / "tiny.safetensors"
    trainer = loop.Trainer(
        recipe.model_copy(update={"seed": 5}), loop.Sources(data=sources.data, init=published)
    )
    expected = state.load(run, torch.device("cpu"))["averaged"]
    assert equal(dict(trainer.generator.state_dict()), expected)
    assert equal(trainer.averaged, expected)


def test_init_from_another_size_is_refused(recipe, sources, tmp_path):
    run = loop.train(shortened(recipe, 2), sources, tmp_path / "run")
    commands.export(run, tmp_path)
    other = recipe.model_copy(update={"generator": {**recipe.generator, "width": 12}})
    given = loop.Sources(data=sources.data, init=tmp_path / "tiny.safetensors")
    with pytest.raises(BadRecipe, match="not what tiny trains"):
        loop.Trainer(other, given)


def test_an_unknown_architecture_is_refused(recipe, sources):
    unknown = Recipe(**{**recipe.model_dump(), "architecture": "aotgam"})
    with pytest.raises(BadRecipe, match="recipe tiny: unknown architecture 'aotgam'"):
        loop.Trainer(unknown, sources)
