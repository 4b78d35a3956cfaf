"""OpenVINO computes what PyTorch computes, says so when it cannot, and tells nobody about it."""

import copy
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

import models
from inpaint.errors import ModelFailed, StartFailed
from inpaint.highres import SizeRule
from models.aotgan_compact import CompactAOTGAN
from models.checkpoint import load, read_header
from models.classical import Telea
from models.engine import NotTaken
from models.filler import OpenVINOFiller, TorchFiller, fastest_filler, out_of_memory
from models.generator import Generator
from models.registry import GENERATORS, architecture_of

SHIPPED = {
    path.stem: path
    for path in sorted((Path(models.__file__).parent / "checkpoints").glob("*.safetensors"))
    if read_header(path).detection is None
}
# Levels between a fill in bfloat16 and one in float32 by PyTorch: the largest, and the mean, over
# a hole. AOT-GAN's gates sharpen what rounding does before them.
TOLERANCE = {
    "aotgan": (12, 1.0),
    "aotgan-compact": (4, 0.5),
    "ccgan": (3, 0.5),
    "context-encoder": (3, 0.5),
    "context-encoder-centre": (3, 0.5),
}
TINY = CompactAOTGAN.Config(width=4, channels=8, blocks=1, rates=(1, 2))


@cache
def shipped(name: str) -> Generator:
    return load(SHIPPED[name])[0]


@pytest.fixture
def generator() -> CompactAOTGAN:
    torch.manual_seed(0)
    generator = CompactAOTGAN(TINY)
    torch.nn.init.normal_(generator.head.weight, std=0.3)  # a fill of many colours
    return generator


def windows(height: int, width: int, *, batch: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures of ramps, an edge and some noise, with a hole in their middle."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = rows * 255 // height, columns * 255 // width
    blue = np.where(columns > width * 0.4, 200, 30)
    noise = random.integers(-20, 20, (batch, height, width, 3))
    pixels = np.clip(np.stack([red, green, blue], axis=-1) + noise, 0, 255).astype(np.uint8)
    holes = np.zeros((batch, height, width), bool)
    holes[:, height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = True
    return pixels, holes


def trained(generator: Generator) -> tuple[np.ndarray, np.ndarray]:
    side = generator.rule.fit(generator.rule.trained)
    return windows(side, side)


def test_the_shipped_models_are_of_every_learned_architecture():
    architectures = {architecture_of(shipped(name)) for name in SHIPPED}

    assert architectures == set(TOLERANCE) == set(GENERATORS) - {"telea", "navier-stokes"}


@pytest.mark.parametrize("name", SHIPPED)
def test_openvino_in_float32_agrees_within_one_level(name):
    pixels, holes = trained(shipped(name))

    exact = TorchFiller(shipped(name), precision="float32")(pixels, holes)
    filler = fastest_filler(shipped(name), precision="float32", engine="openvino")
    fills = filler(pixels, holes)

    assert (filler.engine, filler.precision, filler.device) == ("openvino", "float32", "cpu")
    assert np.abs(exact.astype(int) - fills)[holes].max() <= 1
    assert exact[holes].std() > 5


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_bfloat16_agrees_within_the_tolerance_of_the_architecture(name, engine):
    pixels, holes = trained(shipped(name))

    exact = TorchFiller(shipped(name), precision="float32")(pixels, holes)
    fast = fastest_filler(shipped(name), precision="bfloat16", engine=engine)(pixels, holes)

    levels = np.abs(exact.astype(int) - fast)[holes]
    largest, mean = TOLERANCE[architecture_of(shipped(name))]
    assert levels.max() <= largest
    assert levels.mean() <= mean


@pytest.mark.parametrize("name", ["aotgan-small", "aotgan-compact-256", "ccgan-small"])
@pytest.mark.parametrize("size", [(96, 200), (64, 64), (130, 71)])
def test_windows_of_other_sizes_than_the_examples_agree(name, size):
    pixels, holes = windows(*size, batch=1)

    exact = TorchFiller(shipped(name), precision="float32")(pixels, holes)
    fills = OpenVINOFiller(shipped(name), "float32")(pixels, holes)

    assert fills.shape == (1, *size, 3)
    assert np.abs(exact.astype(int) - fills)[holes].max() <= 1


def test_auto_is_openvino_on_a_cpu(generator):
    assert fastest_filler(generator).engine == "openvino"
    assert fastest_filler(generator, engine="torch").engine == "torch eager"
    assert fastest_filler(Telea(Telea.Config()), engine="openvino").engine == "opencv"


def test_a_fill_stays_as_it_is_while_others_are_computed(generator):
    filler = OpenVINOFiller(generator)
    pixels, holes = windows(32, 32)
    fills = filler(pixels, holes)
    before = fills.copy()

    other = filler(255 - pixels, holes)

    assert np.array_equal(fills, before)
    assert not np.array_equal(fills, other)


def test_openvino_takes_as_many_threads_as_torch_and_binds_none_to_a_core(generator):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        compiled = OpenVINOFiller(generator)._network._request.get_compiled_model()
    finally:
        torch.set_num_threads(threads)

    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_calls_in_several_threads_do_not_mix_their_pictures(generator):
    filler = OpenVINOFiller(generator)
    pixels, holes = windows(64, 64, batch=16)
    alone = [filler(pixels[i : i + 1], holes[i : i + 1]) for i in range(16)]

    with ThreadPoolExecutor(8) as pool:
        beside = list(pool.map(lambda i: filler(pixels[i : i + 1], holes[i : i + 1]), range(16)))

    np.testing.assert_array_equal(beside, alone)


def test_a_converted_generator_stays_as_it_was_and_may_change_afterwards(generator):
    generator.train()
    before = copy.deepcopy(generator.state_dict())
    filler = OpenVINOFiller(generator)
    pixels, holes = windows(32, 32)
    fills = filler(pixels, holes)

    assert generator.training
    assert all(parameter.requires_grad for parameter in generator.parameters())
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.zero_()
    assert np.array_equal(filler(pixels, holes), fills)


def test_values_that_are_not_finite_are_a_failure_of_the_model(generator):
    with torch.no_grad():
        generator.head.bias[0] = float("nan")

    with pytest.raises(ModelFailed, match="not finite"):
        OpenVINOFiller(generator)(*windows(16, 16, batch=3))


class Undecided(Generator):
    """Computes one of two things, after its input: a trace would know only one."""

    rule = SizeRule()

    def generate(self, visible: Tensor, mask: Tensor) -> Tensor:
        return visible if visible.mean() > 0 else -visible


class Sorter(Generator):
    """Does what OpenVINO has no operation for."""

    rule = SizeRule()

    def generate(self, visible: Tensor, mask: Tensor) -> Tensor:
        return visible * torch.linalg.svdvals(visible)[:, :, :1, None]


@pytest.mark.parametrize("kind", [Undecided, Sorter])
def test_pytorch_runs_what_openvino_does_not_take_and_the_log_says_why(kind, caplog):
    filler = fastest_filler(kind())

    assert filler.engine == "torch eager"
    assert f"PyTorch runs {kind.__name__}, which OpenVINO does not take: " in caplog.text


def test_a_trace_that_would_lose_a_branch_is_not_taken():
    with pytest.raises(NotTaken, match="TracerWarning: Converting a tensor to a Python boolean"):
        OpenVINOFiller(Undecided())


def test_openvino_that_is_asked_for_and_cannot_is_no_start():
    with pytest.raises(StartFailed, match="OpenVINO does not take Undecided: "):
        fastest_filler(Undecided(), engine="openvino")


def test_openvino_on_a_gpu_is_no_start(generator):
    with pytest.raises(StartFailed, match="computes on a CPU, the device is cuda"):
        fastest_filler(generator, device="cuda", engine="openvino")


def failure(run: object) -> Exception:
    """Return what a call raises."""
    try:
        run()
    except Exception as error:  # noqa: BLE001  # whatever it is
        return error
    raise AssertionError("nothing was raised")


def test_errors_for_want_of_memory_are_told_from_others():
    tall, wide = np.zeros((1, 1), np.uint8), 2**28 - 1
    hungry = [
        lambda: np.empty(2**60, np.uint8),
        lambda: torch.empty(2**60, dtype=torch.uint8),
        lambda: cv2.copyMakeBorder(tall, 0, 2**20, 0, wide, cv2.BORDER_CONSTANT),
    ]
    wrong = [
        lambda: torch.zeros(2) + torch.zeros(3),
        lambda: cv2.inpaint(tall, tall, 3, 99),
        lambda: int("memory"),
    ]

    assert [out_of_memory(failure(run)) for run in hungry] == [True, True, True]
    assert [out_of_memory(failure(run)) for run in wrong] == [False, False, False]
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))


def run_alone(script: str, folder: Path) -> str:
    """Run a script in a process of its own, at home in an empty folder; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": str(folder), "OMP_NUM_THREADS": "1"},
        cwd=Path(models.__file__).parent.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow  # imports PyTorch in a process of its own
def test_a_batch_without_memory_raises_and_does_not_return_an_older_fill(tmp_path):
    # OpenVINO's own `infer` returns the fill of the small window, on one thread
    printed = run_alone(
        """
        import resource
        import numpy as np, psutil
        from models.aotgan_compact import CompactAOTGAN
        from models.filler import OpenVINOFiller, out_of_memory

        generator = CompactAOTGAN(CompactAOTGAN.Config(width=64, channels=64, blocks=1))
        filler = OpenVINOFiller(generator)
        windows = np.zeros((8, 512, 512, 3), np.uint8), np.ones((8, 512, 512), bool)
        small = windows[0][:1, :64, :64], windows[1][:1, :64, :64]
        filler(*small)
        limit = psutil.Process().memory_info().vms + 50 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            print(filler(*windows).shape)
        except RuntimeError as error:
            print(out_of_memory(error), filler(*small).shape)
        """,
        tmp_path,
    )

    assert printed.strip() == "True (1, 64, 64, 3)"


@pytest.mark.slow  # imports PyTorch in a process of its own
def test_openvino_calls_nobody_and_writes_nothing(tmp_path):
    printed = run_alone(
        """
        import sys
        seen = []
        def watch(event, arguments):
            if event.split(".")[0] in ("socket", "urllib", "subprocess", "http"):
                seen.append(event)
        sys.addaudithook(watch)
        import numpy as np
        from models.aotgan_compact import CompactAOTGAN
        from models.filler import fastest_filler
        config = CompactAOTGAN.Config(width=4, channels=8, blocks=1, rates=(1, 2))
        filler = fastest_filler(CompactAOTGAN(config))
        filler(np.zeros((1, 64, 64, 3), np.uint8), np.ones((1, 64, 64), bool))
        print(filler.engine, seen, [name for name in sys.modules if "telemetry" in name])
        """,
        tmp_path,
    )

    assert printed.strip() == "openvino [] []"
    assert list(tmp_path.iterdir()) == []
