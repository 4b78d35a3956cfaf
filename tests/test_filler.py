from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from inpaint.errors import ModelFailed
from inpaint.highres import SizeRule
from models.aotgan_compact import CompactAOTGAN
from models.classical import Telea
from models.filler import OpenVINOFiller, TorchFiller, best_precision, padding
from models.generator import Generator

SMALL = CompactAOTGAN.Config(width=4, channels=8, blocks=2, rates=(1, 2))


class Recorder(Generator):
    """Remembers what it was given, and returns the visible image."""

    def __init__(self, rule: SizeRule) -> None:
        super().__init__()
        self.rule = rule
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __deepcopy__(self, memo: object) -> "Recorder":
        return self

    def generate(self, visible: Tensor, mask: Tensor) -> Tensor:
        self.seen.append((visible, mask))
        return visible


@pytest.fixture
def generator() -> CompactAOTGAN:
    torch.manual_seed(0)
    generator = CompactAOTGAN(SMALL)
    torch.nn.init.normal_(generator.head.weight, std=0.3)  # a fill of many colours
    return generator


def windows(batch: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    holes = np.zeros((batch, height, width), bool)
    holes[:, height // 4 : height // 2, width // 4 :] = True
    return pixels, holes


def test_fills_are_pixels_of_the_windows_size(generator):
    fills = TorchFiller(generator, precision="float32")(*windows(2, 24, 32))

    assert fills.shape == (2, 24, 32, 3)
    assert fills.dtype == np.uint8
    assert fills.std() > 10


def test_a_fill_is_what_the_generator_computes_rounded(generator):
    pixels, holes = windows(1, 24, 32)

    fill = TorchFiller(generator, precision="float32")(pixels, holes)[0]

    image = torch.from_numpy(pixels[0]).permute(2, 0, 1)[None] / 127.5 - 1
    expected = generator(image, torch.from_numpy(holes)[None].float())[0].permute(1, 2, 0)
    assert np.abs(fill - (expected.detach().numpy() + 1) * 127.5).max() < 0.51


@pytest.mark.parametrize("size", [(24, 32), (25, 31), (17, 40), (16, 16), (9, 5), (1, 1)])
def test_windows_of_any_size_come_back_in_their_size(generator, size):
    pixels, holes = windows(1, *size)

    assert TorchFiller(generator)(pixels, holes).shape == (1, *size, 3)


def test_padding_reflects_pixels_and_holes_below_and_on_the_right():
    recorder = Recorder(SizeRule(multiple=4, minimum=8))
    pixels, holes = windows(1, 10, 7)

    fills = TorchFiller(recorder)(pixels, holes)

    visible, mask = recorder.seen[0]
    assert visible.shape == (1, 3, 12, 8)
    assert torch.equal(visible[:, :, 10:], visible[:, :, [8, 7]])
    assert torch.equal(visible[:, :, :, 7], visible[:, :, :, 5])
    assert torch.equal(mask[:, :, 10:], mask[:, :, [8, 7]])
    assert np.array_equal(fills[~holes], pixels[~holes])


def test_a_window_that_fits_is_not_padded():
    assert padding(40, 48, SizeRule(multiple=8, minimum=16)) == (0, 0)


def test_a_window_is_padded_to_the_next_multiple_and_to_the_minimum():
    assert padding(41, 3, SizeRule(multiple=8, minimum=36)) == (7, 37)


def test_a_window_is_padded_to_a_fixed_size():
    assert padding(100, 128, SizeRule(fixed=128)) == (28, 0)


def test_a_window_larger_than_a_fixed_size_is_refused():
    with pytest.raises(ValueError, match="129x100 exceeds"):
        padding(129, 100, SizeRule(fixed=128))


def test_pixels_and_holes_that_disagree_are_refused(generator):
    pixels, holes = windows(2, 16, 16)

    with pytest.raises(ValueError, match="disagree"):
        TorchFiller(generator)(pixels, holes[:1])


def test_the_given_generator_stays_as_it_was(generator):
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    generator.train()

    TorchFiller(generator, precision="bfloat16")(*windows(1, 16, 16))

    assert generator.training
    assert all(parameter.requires_grad for parameter in generator.parameters())
    for name, value in generator.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])


def test_bfloat16_fills_differ_from_those_in_float32_by_few_levels(generator):
    pixels, holes = windows(2, 32, 32)

    exact = TorchFiller(generator, precision="float32")(pixels, holes)
    fast = TorchFiller(generator, precision="bfloat16")(pixels, holes)

    assert np.abs(exact.astype(int) - fast).mean() < 1.5


def test_precision_follows_the_processor(generator):
    filler = TorchFiller(generator)

    capabilities = torch.cpu.get_capabilities()
    has_bfloat16 = capabilities.get("amx_bf16", False) or capabilities.get("avx512_bf16", False)
    assert filler.precision == best_precision("cpu") == ("bfloat16" if has_bfloat16 else "float32")


def test_a_network_is_served_by_torch(generator):
    filler = TorchFiller(generator, precision="float32")

    assert (filler.engine, filler.device, filler.precision) == ("torch eager", "cpu", "float32")
    assert filler.rule == generator.rule


def test_classical_fills_stay_on_the_cpu_in_float32():
    filler = TorchFiller(Telea(Telea.Config()), device="cuda", precision="bfloat16")

    assert (filler.engine, filler.device, filler.precision) == ("opencv", "cpu", "float32")


def test_fills_do_not_depend_on_the_order_of_memory(generator):
    pixels, holes = windows(1, 16, 24)
    filler = TorchFiller(generator)

    other = np.ascontiguousarray(pixels.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)

    assert np.array_equal(filler(other, holes), filler(pixels, holes))


@pytest.mark.parametrize("make", [TorchFiller, OpenVINOFiller])
def test_windows_that_may_not_be_written_are_filled_and_stay(generator, make):
    pixels, holes = windows(2, 16, 24)
    before = pixels.copy(), holes.copy()
    pixels.flags.writeable = holes.flags.writeable = False

    fills = make(generator)(pixels, holes)

    assert np.array_equal(fills, make(generator)(*before))
    assert np.array_equal(pixels, before[0])
    assert np.array_equal(holes, before[1])


@pytest.mark.parametrize("make", [TorchFiller, OpenVINOFiller])
def test_loading_in_one_thread_and_running_in_another_gives_the_same_fills(generator, make):
    filler = make(generator)
    one, other = windows(1, 21, 24), windows(2, 16, 40)

    with ThreadPoolExecutor(1) as pool:
        loaded = [pool.submit(filler.load, *given).result() for given in (one, other)]

    for given, ready in zip((one, other), loaded, strict=True):
        assert np.array_equal(filler.run(ready), filler(*given))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_windows_are_loaded_while_others_are_filled(generator):
    filler = TorchFiller(generator, device="cuda")
    batches = [windows(2, 64, 64 + 8 * number) for number in range(8)]

    with ThreadPoolExecutor(1) as pool:
        loading = [pool.submit(filler.load, *batch) for batch in batches]
        fills = [filler.run(loaded.result()) for loaded in loading]

    for batch, fill in zip(batches, fills, strict=True):
        assert np.array_equal(fill, filler(*batch))


def test_values_that_are_not_finite_are_a_failure_of_the_model(generator):
    with torch.no_grad():
        generator.head.bias[0] = float("nan")

    with pytest.raises(ModelFailed, match="not finite"):
        TorchFiller(generator)(*windows(1, 16, 16))


def test_warming_fills_batches_of_the_trained_size_with_holes():
    recorder = Recorder(SizeRule(multiple=8, trained=250))

    TorchFiller(recorder).warm()

    shapes = [tuple(mask.shape) for _, mask in recorder.seen]
    assert shapes == [(1, 1, 256, 256), (2, 1, 256, 256), (4, 1, 256, 256)]
    assert all(0 < mask.mean() < 1 for _, mask in recorder.seen)


def test_a_generator_may_optimise_while_it_fills():
    class Optimiser(Recorder):
        def generate(self, visible: Tensor, mask: Tensor) -> Tensor:
            with torch.enable_grad():
                fill = visible.clone().requires_grad_()
                (fill - 1).square().sum().backward()
            assert fill.grad is not None
            return fill - fill.grad / 2

    fills = TorchFiller(Optimiser(SizeRule()))(*windows(1, 8, 8))

    assert (fills == 255).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_fills_on_a_gpu_are_those_of_the_cpu(generator):
    pixels, holes = windows(2, 32, 32)

    here = TorchFiller(generator, precision="float32")(pixels, holes)
    there = TorchFiller(generator, device="cuda", precision="float32")(pixels, holes)

    assert np.abs(here.astype(int) - there).max() <= 1
