"""Several ranks in processes of their own, over gloo on the loopback: they train as one does."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from inpaint.errors import StartFailed
from training import distributed, loop, state
from training.recipe import load
from training.trainer import Sources

pytestmark = pytest.mark.slow

STEPS, LONGER = 4, 6
SECONDS = 120.0  # that any of it may take
RECIPE = """
name = "tiny"
architecture = "aotgan"
license = "CC0-1.0"
precision = "float32"
warmup = 0
clip = 0.5
average = 0.9
save_every = 2
log_every = 1

[generator]
channels = 4
blocks = 1
rates = [1, 2]
gate = false # its bias, which is standardised away, has a gradient of rounding errors alone

[discriminator]
channels = 4
learning_rate = 1e-3

[crops]
smallest = 24

[losses]
hole_squared = 1.0
perceptual = 0.0
style = 0.0
adversarial = 0.5
r1 = 1.0
blur_kernel = 9
blur_sigma = 1.5

[[stages]]
steps = STEPS
size = 40
batch = 4
learning_rate = 1e-3
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(4):
        coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((70, 60), Image.Resampling.BICUBIC)
        picture.save(folder / f"{seed}.png")
    (folder / "broken.png").write_text("this is no picture")
    return folder


def write_recipe(folder, *, steps=STEPS, batch=4):
    path = folder / f"tiny-{steps}-{batch}.toml"
    text = RECIPE.replace("STEPS", str(steps)).replace("batch = 4", f"batch = {batch}")
    path.write_text(text)
    return path


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def words(recipe, photographs, out):
    """What follows the interpreter or torchrun."""
    return ["-m", "inpaint", "train", recipe, "--data", photographs, "--out", out, "--threads", "1"]


def start_ranks(recipe, photographs, out, ranks=2):
    """Start each rank as torchrun would; return the processes."""
    port = free_port()
    for rank in range(ranks):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
        settings = {name: str(value) for name, value in place.items()}
        yield subprocess.Popen(
            [sys.executable, *map(str, words(recipe, photographs, out))],
            env=os.environ | settings | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def finish(processes):
    """Exit code, output and errors of each."""
    said = [process.communicate(timeout=SECONDS) for process in processes]
    return [(p.returncode, *texts) for p, texts in zip(processes, said, strict=True)]


def scalars(out):
    lines = [json.loads(line) for line in (out / "scalars.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "waiting")} for line in lines]


def state_of(out):
    return state.load(out, torch.device("cpu"))


def tensors(nested, path=""):
    """Every tensor of a state by its path."""
    if isinstance(nested, torch.Tensor):
        yield path, nested
    elif isinstance(nested, dict | list):
        items = nested.items() if isinstance(nested, dict) else enumerate(nested)
        for key, value in items:
            yield from tensors(value, f"{path}/{key}")


def assert_alike(one, two):
    """States hold the same numbers within rounding: gradients, as Adam's means, and weights."""
    first, second = dict(tensors(one)), dict(tensors(two))
    assert first.keys() == second.keys()
    for name, value in first.items():
        value, other = value.double(), second[name].double()
        scale = value.abs().max().item()
        assert (value - other).abs().max().item() <= 2e-3 * scale + 1e-8, name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def shared(folder, photographs):
    """A run of two ranks, and what they printed together."""
    out = folder / "two"
    torchrun = ["torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    torchrun.append(f"--master-port={free_port()}")
    line = [sys.executable, "-m", *torchrun, *words(write_recipe(folder), photographs, out)]
    done = subprocess.run(
        list(map(str, line)),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout
    return out, done.stdout


@pytest.fixture(scope="module")
def alone(folder, photographs):
    """The same run in this process."""
    return loop.train(load(write_recipe(folder)), Sources(data=(photographs,)), folder / "one")


def test_two_ranks_train_as_one_does_on_the_joined_batch(shared, alone):
    assert_alike(state_of(alone), state_of(shared[0]))
    for one, two in zip(scalars(alone), scalars(shared[0]), strict=True):
        assert one == pytest.approx(two, rel=1e-4)


def test_the_first_rank_alone_writes_and_speaks(shared):
    out, printed = shared
    lines = printed.splitlines()
    assert lines.count("4 photographs, 1 unreadable skipped") == 2  # at both ends
    assert sum(line.startswith(f"saved at step {STEPS} of {STEPS}") for line in lines) == 1
    assert sum(f"{STEPS}/{STEPS}" in line for line in lines) == 1  # the bar
    assert "Warning" not in printed
    names = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    drawn = {"curves.png", "samples", f"samples/{STEPS:07d}.png"}
    assert names == {"state.pt", "scalars.jsonl", *drawn}


def test_a_run_of_two_ranks_goes_on_with_two_and_with_one(shared, folder, photographs):
    longer = write_recipe(folder, steps=LONGER)
    before = scalars(shared[0])
    by_one, by_two = folder / "then one", folder / "then two"
    for out in (by_one, by_two):
        shutil.copytree(shared[0], out)
    printed = finish([*start_ranks(longer, photographs, by_two)])
    assert [code for code, _, _ in printed] == [0, 0], printed
    assert f"going on at step {STEPS} of {LONGER}" in printed[0][1]
    loop.train(load(longer), Sources(data=(photographs,)), by_one)
    assert_alike(state_of(by_one), state_of(by_two))
    assert [state_of(out)["ranks"] for out in (by_one, by_two)] == [1, 2]
    for out in (by_one, by_two):
        assert scalars(out)[:STEPS] == before
        assert [line["step"] for line in scalars(out)] == [*range(1, LONGER + 1)]


def test_a_batch_that_cannot_be_shared_evenly_is_refused_by_name(folder, photographs):
    printed = finish([*start_ranks(write_recipe(folder, batch=3), photographs, folder / "odd")])
    for code, _, errors in printed:
        assert code == 1
        assert "recipe tiny: a batch of 3 cannot be shared evenly by 2 ranks" in errors
        assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("device", "given", "said"),
    [
        ("cpu", {"WORLD_SIZE": "2"}, "the ranks cannot be joined: .*RANK"),
        ("cuda", {"WORLD_SIZE": "2"}, "the ranks cannot be joined: 'LOCAL_RANK'"),
        ("cuda:1", {"WORLD_SIZE": "1"}, "name --device cuda and not cuda:1"),
    ],
)
def test_ranks_that_cannot_be_joined_are_refused(device, given, said, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartFailed, match=said), distributed.ranks(device):
        raise AssertionError("joined")


def wait_for_a_state(out, processes):
    end = time.monotonic() + SECONDS
    while not (out / state.FILE).exists():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_signal_to_one_rank_ends_all_behind_the_same_step(folder, photographs):
    out, recipe = folder / "ended", write_recipe(folder, steps=100_000)
    processes = [*start_ranks(recipe, photographs, out)]
    wait_for_a_state(out, processes)
    processes[1].send_signal(signal.SIGTERM)
    printed = finish(processes)
    assert [code for code, _, _ in printed] == [130, 130], printed
    assert f"interrupted; saved at step {state_of(out)['step']} of 100000" in printed[0][1]


def test_a_killed_rank_ends_the_others_and_the_run_goes_on(folder, photographs):
    out, recipe = folder / "killed", write_recipe(folder, steps=100_000)
    processes = [*start_ranks(recipe, photographs, out)]
    wait_for_a_state(out, processes)
    processes[1].kill()
    (code, _, errors), _ = finish(processes)
    assert code == 1
    assert "another rank is gone" in errors
    assert "Traceback" not in errors
    saved = state_of(out)["step"]
    loop.train(load(write_recipe(folder, steps=saved + 2)), Sources(data=(photographs,)), out)
    assert [line["step"] for line in scalars(out)] == [*range(1, saved + 3)]
