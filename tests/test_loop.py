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

from inpaint.errors import BadCheckpoint, BadData, BadRecipe
from models import checkpoint
from models.checkpoint import Header
from models.registry import create
from training import commands, data, loop, state
from training.networks import begin_with
from training.recipe import Recipe, load
from training.trainer import Sources, Trainer

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
r1 = 1.0

[crops]
smallest = 24
sepia = 0.3

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
    return Sources(data=(photographs,))


@pytest.fixture
def one_thread():
    """Sums as in a process that was started with one: in this order, to the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def wait_for_lines(process, out, count):
    """Wait until so many lines of scalars are written; steps take milliseconds."""
    deadline = time.monotonic() + 120
    while len(scalars(out)) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)


def finish(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def scalars(out):
    """The logged lines without the times, which no two runs share."""
    log = out / "scalars.jsonl"
    whole = log.read_text().rpartition("\n")[0] if log.exists() else ""
    lines = [json.loads(line) for line in whole.splitlines()]
    times = {"seconds", "waiting"}
    return [{name: value for name, value in line.items() if name not in times} for line in lines]


def state_of(out):
    return state.load(out, torch.device("cpu"))


def without_times(saved):
    return {key: value for key, value in saved.items() if key not in ("seconds", "cpu")}


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
def test_a_run_killed_in_the_middle_goes_on_bit_for_bit(
    recipe_file, recipe, photographs, sources, one_thread, tmp_path
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    loop.train(recipe, sources, whole)

    victim = start(recipe_file, photographs, killed)
    wait_for_lines(victim, killed, 7)  # step 14, behind the save at 12
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    saved = state_of(killed)["step"]
    assert 12 <= saved < STEPS

    assert f"going on at step {saved} of {STEPS}" in finish(start(recipe_file, photographs, killed))
    one, two = (without_times(state_of(out)) for out in (whole, killed))
    assert one["step"] == STEPS
    assert equal(one, two)
    assert scalars(killed) == scalars(whole)
    assert [line["step"] for line in scalars(whole)] == list(range(2, STEPS + 1, 2))
    sheets = [(out / "samples" / f"{STEPS:07d}.png").read_bytes() for out in (whole, killed)]
    assert sheets[0] == sheets[1]
    assert (killed / "curves.png").stat().st_size > 0


@pytest.mark.slow
def test_an_interrupted_run_saves_says_so_and_goes_on(recipe_file, photographs, sources, tmp_path):
    text = TINY.replace("save_every = 4", "save_every = 1000").replace("steps = 28", "steps = 500")
    recipe_file.write_text(text)
    out, saved = tmp_path / "run", 0
    for number in (signal.SIGINT, signal.SIGTERM):
        before = len(scalars(out))
        process = start(recipe_file, photographs, out)
        wait_for_lines(process, out, before + 1)
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 130, output
        assert saved == 0 or f"going on at step {saved} of 508" in output
        assert saved < state_of(out)["step"] < 508
        saved = state_of(out)["step"]
        assert f"interrupted; saved at step {saved} of 508" in output
        assert "Traceback" not in output
    even = saved + saved % 2
    recipe_file.write_text(text.replace("steps = 500", f"steps = {even}"))
    loop.train(load(recipe_file), sources, out)
    assert [line["step"] for line in scalars(out)] == list(range(2, even + 9, 2))


@pytest.mark.slow
def test_a_run_with_dropout_moved_by_muon_goes_on_bit_for_bit(recipe, sources, tmp_path):
    stage = {"steps": 4, "size": 64, "batch": 2, "learning_rate": 1e-3}
    changes = {"architecture": "ccgan", "generator": {"width": 2}, "log_every": 1, "save_every": 1}
    changes["optimizer"] = "muon"
    whole = Recipe.model_validate(recipe.model_dump() | changes | {"stages": [stage]})
    half = Recipe.model_validate(whole.model_dump() | {"stages": [stage | {"steps": 2}]})
    loop.train(whole, sources, tmp_path / "whole")
    loop.train(half, sources, tmp_path / "halves")
    loop.train(whole, sources, tmp_path / "halves")
    one, two = (without_times(state_of(tmp_path / name)) for name in ("whole", "halves"))
    assert equal(one, two)
    assert scalars(tmp_path / "whole") == scalars(tmp_path / "halves")


def test_a_run_that_diverges_keeps_the_last_good_state_and_goes_on_from_it(
    recipe, sources, tmp_path
):
    out, told = tmp_path / "run", []
    steady = shortened(recipe, 4)
    wild = steady.stages[0].model_copy(update={"learning_rate": 1e30, "final_rate": None})
    with pytest.raises(BadData, match="step 5: a loss is not a number: reconstruction"):
        loop.train(
            steady.model_copy(update={"stages": (*steady.stages, wild)}),
            sources,
            out,
            report=told.append,
        )
    assert told[-1] == f"the last good state is in {out}, of step 4"
    assert state_of(out)["step"] == 4
    loop.train(shortened(recipe, 8), sources, out)
    assert state_of(out)["step"] == 8


def test_files_that_could_not_be_read_are_named_again_at_the_end(recipe, photographs, tmp_path):
    (photographs / "bad [red].png").write_text("this is no picture")
    told = []
    loop.train(shortened(recipe, 2), Sources(data=(photographs,)), tmp_path, report=told.append)
    saved = told.index(next(line for line in told if line.startswith("saved at step 2 of 2")))
    for lines in (told[:saved], told[saved:]):
        assert "4 photographs, 1 unreadable skipped" in lines
        assert any(line.startswith("  skipped bad [red].png: ") for line in lines)


def test_classes_keep_their_numbers_when_a_run_goes_on(recipe, photographs, tmp_path):
    for number, name in enumerate(("dog", "cat", "owl")):
        (photographs / name).mkdir()
        (photographs / f"{number}.png").rename(photographs / name / "a.png")
    heads = {"kind": "shared-trunk", "channels": 2, "learning_rate": 1e-4}
    changes = {"discriminator": heads, "losses": {**recipe.model_dump()["losses"], "classes": 1.0}}
    wanted = Recipe.model_validate(shortened(recipe, 2).model_dump() | changes)
    sources = Sources(data=(photographs,), labels="folders")
    run = loop.train(wanted, sources, tmp_path / "run")
    assert state_of(run)["classes"] == ["cat", "dog", "owl"]
    assert "classes" in scalars(run)[0]
    (photographs / "cat" / "a.png").unlink()
    longer = Recipe.model_validate(shortened(recipe, 4).model_dump() | changes)
    loop.train(longer, sources, run)
    assert state_of(run)["classes"] == ["cat", "dog", "owl"]
    (photographs / "dog").rename(photographs / "ant")
    with pytest.raises(BadData, match="the class 'ant' is none of cat, dog, owl"):
        loop.train(longer, sources, run)


def test_a_folder_that_cannot_be_written_ends_the_run_with_its_name(recipe, sources, tmp_path):
    (tmp_path / "samples").write_text("no folder")
    with pytest.raises(BadData, match=f"{tmp_path} cannot be written: "):
        loop.train(shortened(recipe, 1), sources, tmp_path)
    assert state_of(tmp_path)["step"] == 1


def test_two_runs_in_one_folder_are_refused(recipe, sources, tmp_path):
    refused = []

    def begin_another(step, steps, rate):
        with pytest.raises(BadData, match=f"another run is at work in {tmp_path}; use another"):
            loop.train(recipe, sources, tmp_path)
        refused.append(step)

    loop.train(shortened(recipe, 2), sources, tmp_path, progress=begin_another)
    assert refused == [1, 2]
    loop.train(shortened(recipe, 3), sources, tmp_path)
    assert [line["step"] for line in scalars(tmp_path)] == [2, 3]


def test_a_truncated_state_is_refused_before_any_photograph_is_read(recipe, tmp_path):
    (tmp_path / state.FILE).write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(BadData, match=r"training state .*state.pt is damaged"):
        loop.train(recipe, Sources(data=(tmp_path / "nowhere",)), tmp_path)


def test_a_state_of_other_networks_is_refused(recipe, sources, tmp_path):
    run = loop.train(shortened(recipe, 2), sources, tmp_path)
    saved = state_of(run)
    del saved["generator"]["head.bias"]
    state.save(run, saved)
    with pytest.raises(BadData, match=r"state.pt is not of this run and version: .*; use another"):
        loop.train(shortened(recipe, 4), sources, tmp_path)
    state.save(run, {"something": "else"})
    with pytest.raises(BadData, match=r"state.pt is not of this run and version: 'recipe'"):
        loop.train(shortened(recipe, 4), sources, tmp_path)


def test_a_finished_run_started_again_changes_nothing(recipe, sources, tmp_path):
    short, out = shortened(recipe, 4), tmp_path / "run"
    loop.train(short, sources, out)
    before = (out / "state.pt").read_bytes(), (out / "scalars.jsonl").read_bytes()
    loop.train(short, sources, out)
    assert ((out / "state.pt").read_bytes(), (out / "scalars.jsonl").read_bytes()) == before


@pytest.mark.slow
def test_a_prolonged_recipe_goes_on_and_another_one_is_refused(recipe, sources, tmp_path):
    out = tmp_path / "run"
    loop.train(shortened(recipe, 4), sources, out)
    with_terms = {"license": "CC0-1.0", "license_note": "drawn"}
    loop.train(shortened(recipe, 6).model_copy(update=with_terms), sources, out)
    assert state_of(out)["step"] == 6
    changed = shortened(recipe, 8).model_copy(update={"seed": 9, "clip": 0.5})
    with pytest.raises(BadRecipe, match="other values of seed, clip"):
        loop.train(changed, sources, out)


def test_lines_behind_the_saved_step_are_cut_off(tmp_path):
    path = tmp_path / "scalars.jsonl"
    path.write_text('{"step": 2, "a": 1}\n{"step": 4, "a": 2}\n{"step": 6, "a": 3}\n{"step": 8, "a')
    loop.cut(path, 4)
    assert path.read_text() == '{"step": 2, "a": 1}\n{"step": 4, "a": 2}\n'


@pytest.mark.slow
def test_training_lowers_the_error_in_the_hole(recipe, sources, tmp_path):
    stage = recipe.stages[0].model_copy(update={"steps": 180})
    longer = recipe.model_copy(update={"stages": (stage,), "sample_every": 1000, "log_every": 10})
    loop.train(longer, sources, tmp_path / "run")
    errors = [line["hole_error"] for line in scalars(tmp_path / "run")]
    assert sum(errors[-3:]) / 3 < 0.7 * errors[0]


def test_samples_show_photo_masked_and_filled_with_the_known_region_unchanged(
    recipe, sources, tmp_path
):
    material = data.Material(data.read(sources.data, longest=96).pixels)
    loop.draw_samples(Trainer(recipe, sources), material, tmp_path / "sheet.png")
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
    sources = Sources(data=(photographs,), masks=(tmp_path / "mask.png",))
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
    saved = state_of(run)
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


@pytest.mark.parametrize("text", ["[1]", '{"tiny": 3}', "{", None])
def test_scores_that_are_none_are_refused_by_name(text, recipe, sources, tmp_path):
    run = loop.train(shortened(recipe, 1), sources, tmp_path / "run")
    if text is not None:
        (tmp_path / "scores.json").write_text(text)
    with pytest.raises(BadData, match=r"scores .*scores.json (are not what|cannot be read)"):
        commands.export(run, tmp_path, scores=tmp_path / "scores.json")


def test_a_state_of_something_else_cannot_be_exported(recipe, sources, tmp_path):
    run = loop.train(shortened(recipe, 1), sources, tmp_path / "run")
    whole = state_of(run)
    for strange in ([1], {}, {"recipe": "{}"}, {**whole, "averaged": {}}):
        state.save(run, strange)
        with pytest.raises(BadData, match=r"state.pt is not of this run and version: .+; use"):
            commands.export(run, tmp_path)


def test_weights_that_float16_cannot_hold_are_not_exported_so(recipe, sources, tmp_path):
    run = loop.train(shortened(recipe, 1), sources, tmp_path / "run")
    saved = state_of(run)
    saved["averaged"]["head.bias"] += 1e6
    state.save(run, saved)
    with pytest.raises(BadCheckpoint, match=r"tiny.safetensors: not finite as torch.float16"):
        commands.export(run, tmp_path)
    commands.export(run, tmp_path, half=False)


def test_init_begins_with_the_weights_of_a_checkpoint(recipe, sources, tmp_path):
    run = loop.train(shortened(recipe, 4), sources, tmp_path / "run")
    commands.export(run, tmp_path, half=False)
    published = tmp_path / "tiny.safetensors"
    trainer = Trainer(
        recipe.model_copy(update={"seed": 5}), Sources(data=sources.data, init=published)
    )
    expected = state_of(run)["averaged"]
    assert equal(dict(trainer.generator.state_dict()), expected)
    assert equal(trainer.averaged, expected)


COMPACT = {"width": 4, "channels": 8, "blocks": 2, "rates": (1, 2)}


@pytest.mark.parametrize(
    ("architecture", "narrow", "wide"),
    [
        ("aotgan", {"channels": 4, "blocks": 2}, {"channels": 12, "blocks": 2}),
        ("aotgan-compact", COMPACT, COMPACT | {"width": 8, "channels": 16}),
    ],
)
def test_init_from_fewer_channels_begins_with_their_fills_and_channels_part(
    architecture, narrow, wide, recipe, sources, tmp_path
):
    torch.manual_seed(3)
    given = create(architecture, narrow).eval()
    header = Header.of(given, name="small", license="CC0-1.0")
    checkpoint.save(tmp_path / "small.safetensors", given, header)
    changes = {"architecture": architecture, "generator": wide}
    stage = recipe.stages[0].model_copy(update={"size": 64})
    changed = recipe.model_copy(update=changes | {"stages": (stage,)})
    trainer = Trainer(changed, Sources(data=sources.data, init=tmp_path / "small.safetensors"))
    wanted = trainer.generator.eval()

    image, mask = torch.rand(2, 3, 128, 128) * 2 - 1, torch.zeros(2, 1, 128, 128)
    mask[..., 40:70, 20:90] = 1
    with torch.no_grad():
        assert torch.allclose(wanted(image, mask), given(image, mask), atol=1e-4)
    wanted.train()
    (wanted(image, mask) * mask).abs().sum().backward()
    gradients = [p.grad for p in wanted.parameters() if p.ndim == 4 and p.shape[0] > 3]
    assert any(not torch.allclose(g[0], g[1], rtol=1e-3) for g in gradients)


@pytest.mark.parametrize("wide", [{"channels": 32}, {"rates": (2, 4)}, {"blocks": 3}])
def test_init_from_what_would_fill_otherwise_is_refused(wide):
    torch.manual_seed(3)
    given, wanted = (create("aotgan-compact", config) for config in (COMPACT, COMPACT | wide))
    torch.nn.init.normal_(given.head.weight)
    assert not begin_with(given, wanted)


def test_init_from_another_size_is_refused(recipe, sources, tmp_path):
    run = loop.train(shortened(recipe, 2), sources, tmp_path / "run")
    commands.export(run, tmp_path)
    other = recipe.model_copy(update={"generator": {**recipe.generator, "width": 12}})
    given = Sources(data=sources.data, init=tmp_path / "tiny.safetensors")
    with pytest.raises(BadRecipe, match="not what tiny trains"):
        Trainer(other, given)
