"""A generator on a device: pixels and holes in, fills out.

In: pixels uint8 (B,H,W,3), RGB, and holes bool (B,H,W), True = hole, of any size.
Out: fills uint8 (B,H,W,3), meaningful in the hole only.

Filling has two halves, which a worker lets overlap: `load`, in any thread, makes windows fit the
generator and moves them to its device; `run`, in one thread, computes.
"""

import copy
import logging
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inpaint.errors import ModelFailed, StartFailed
from inpaint.highres import SizeRule

from .classical import Classical
from .engine import Compiled, NotTaken, Precision
from .generator import Generator
from .tensors import to_image, to_levels, to_mask

# Worth giving at once. On a CPU windows gain little from company.
CPU_BATCH_PIXELS = 512 * 512
GPU_BATCH_PIXELS = 8 * 512 * 512
EXAMPLE_SIDE = 64  # pixels, of the windows with which a network is converted, where it may choose

# how engines say so in errors of no class of their own: PyTorch, OpenVINO, oneDNN, the C++ library
NO_MEMORY = ("can't allocate memory", "Failed to allocate", "out of memory", "bad_alloc")

log = logging.getLogger("inpaint.models")


@dataclass(frozen=True)
class Loaded:
    """Windows that fit the generator, on its device or on their way there.

    Attributes:
        pixels: uint8 (B,H',W',3).
        holes: bool (B,H',W').
        size: (height, width) before padding.
        arrived: on a GPU: when they are there.
    """

    pixels: Tensor
    holes: Tensor
    size: tuple[int, int]
    arrived: torch.cuda.Event | None = None


class Filler:
    """A copy of a generator, ready to fill; the `Filler` of `inpaint`.

    Attributes:
        rule: that of the generator; windows of other sizes are padded by reflection.
        learned: that of the generator.
        engine: what computes: "openvino", "torch eager", or "opencv" for the classical ones.
        precision: of weights and features.
        device: "cpu", "cuda" or "cuda:N".
        batch_pixels: worth giving at once.
    """

    rule: SizeRule
    learned: bool = True
    engine: str
    precision: Precision
    device: str = "cpu"
    batch_pixels: int = CPU_BATCH_PIXELS

    def __call__(self, pixels: NDArray[np.uint8], holes: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return the fills (B,H,W,3) of windows; pixels under the holes are ignored.

        Raises:
            ValueError: as `load`.
            ModelFailed: as `run`.
        """
        return self.run(self.load(pixels, holes))

    def load(self, pixels: NDArray[np.uint8], holes: NDArray[np.bool_]) -> Loaded:
        """Make windows ready; they must not change before `run` is done with them.

        Raises:
            ValueError: if pixels and holes disagree, or a window exceeds a fixed size.
        """
        if pixels.ndim != 4 or pixels.shape[3] != 3 or holes.shape != pixels.shape[:3]:
            raise ValueError(f"pixels {pixels.shape} and holes {holes.shape} disagree")
        height, width = pixels.shape[1:3]
        down, right = padding(height, width, self.rule)
        if down or right:  # reflects again and again where a side is shorter than its padding
            pixels = np.pad(pixels, ((0, 0), (0, down), (0, right), (0, 0)), mode="reflect")
            holes = np.pad(holes, ((0, 0), (0, down), (0, right)), mode="reflect")
        # copied if they are not in order or may not be written: tensors know no such arrays
        return Loaded(
            torch.from_numpy(np.require(pixels, requirements=("C", "W"))),
            torch.from_numpy(np.require(holes, requirements=("C", "W"))),
            (height, width),
        )

    def run(self, loaded: Loaded) -> NDArray[np.uint8]:
        """Return the fills (B,H,W,3) of loaded windows.

        Raises:
            ModelFailed: if the generator computes values that are not finite.
        """
        fills, finite = self._compute(loaded)
        if not finite:
            raise ModelFailed("the generator computed values that are not finite")
        height, width = loaded.size
        return fills[:, :height, :width]

    def warm(self) -> None:
        """Fill batches of blank windows of the trained size: the first of each size is slow."""
        side = self.rule.fit(self.rule.trained)
        for power in range(max(1, self.batch_pixels // side**2).bit_length()):
            count = 2**power
            holes = np.zeros((count, side, side), bool)
            holes[:, : side // 2] = True
            self(np.zeros((count, side, side, 3), np.uint8), holes)

    def _compute(self, loaded: Loaded) -> tuple[NDArray[np.uint8], bool]:
        """Return fills as large as what was loaded, and whether all values were finite."""
        raise NotImplementedError


class TorchFiller(Filler):
    """Fills with PyTorch as it is, or, for classical generators, with OpenCV."""

    def __init__(
        self, generator: Generator, device: str = "cpu", precision: Precision | None = None
    ) -> None:
        """Copy the generator to the device.

        Args:
            generator: stays as it is, so that a network in training can be tried.
            device: where torch computes. Classical generators stay on the CPU.
            precision: of weights and features, which is as fast as autocast or faster, in half the
                memory. None takes bfloat16 where the device computes in it, float32 elsewhere.
        """
        classical = isinstance(generator, Classical)
        self.rule, self.learned = generator.rule, generator.learned
        self.engine = "opencv" if classical else "torch eager"
        self.device = "cpu" if classical else device
        self.precision = "float32" if classical else precision or best_precision(device)
        self._copies: torch.cuda.Stream | None = None
        if self.device != "cpu":
            self.batch_pixels = GPU_BATCH_PIXELS
            self._copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._network = _OnPixels(_still(generator), getattr(torch, self.precision)).to(self.device)

    def load(self, pixels: NDArray[np.uint8], holes: NDArray[np.bool_]) -> Loaded:
        """Make windows ready; to a GPU they are copied beside what it computes."""
        loaded = super().load(pixels, holes)
        if self._copies is None:
            return loaded
        with torch.cuda.stream(self._copies):
            there = [
                tensor.pin_memory().to(self.device, non_blocking=True)
                for tensor in (loaded.pixels, loaded.holes)
            ]
            return Loaded(there[0], there[1], loaded.size, self._copies.record_event())

    def warm(self) -> None:
        """Fill blank windows where the first ones are slow; OpenCV is as fast the first time."""
        if self.engine != "opencv":
            super().warm()

    # not inference_mode: its tensors may enter no graph, and a generator may optimise per picture
    @torch.no_grad()
    def _compute(self, loaded: Loaded) -> tuple[NDArray[np.uint8], bool]:
        if loaded.arrived is not None:
            here = torch.cuda.current_stream(self.device)
            here.wait_event(loaded.arrived)
            for tensor in (loaded.pixels, loaded.holes):
                tensor.record_stream(here)  # lest their memory is used again too early
        fills, finite = self._network(loaded.pixels, loaded.holes)
        return fills.cpu().numpy(), bool(finite)


class OpenVINOFiller(Filler):
    """Fills with OpenVINO on the CPU."""

    engine = "openvino"

    def __init__(self, generator: Generator, precision: Precision | None = None) -> None:
        """Convert a copy of the generator.

        Args:
            generator: a network; stays as it is.
            precision: as for `TorchFiller`.

        Raises:
            NotTaken: with the reason.
        """
        self.rule = generator.rule
        side = self.rule.fit(EXAMPLE_SIDE)
        example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
        self._network = Compiled(
            _OnPixels(_still(generator), torch.float32),
            (example, torch.zeros(2, side, side, dtype=torch.bool)),
            precision or best_precision("cpu"),
            torch.get_num_threads(),
        )
        self.precision = self._network.precision

    def _compute(self, loaded: Loaded) -> tuple[NDArray[np.uint8], bool]:
        """Fill in batches of 1, 2, 4 … windows.

        Each size of a batch costs memory, and time once: so there are few, and all of them warm.
        """
        total, first = len(loaded.pixels), 0
        fills, finite = [], True
        while first < total:
            last = first + 2 ** ((total - first).bit_length() - 1)
            pixels, holes = loaded.pixels[first:last].numpy(), loaded.holes[first:last].numpy()
            fill, clean = self._network(pixels, holes)
            fills.append(fill)
            finite = finite and bool(clean)
            first = last
        return np.concatenate(fills), finite


def fastest_filler(
    generator: Generator,
    device: str = "cpu",
    precision: Precision | None = None,
    engine: Literal["auto", "openvino", "torch"] = "auto",
) -> Filler:
    """Return a filler of the generator with the fastest engine that takes it.

    Args:
        generator: stays as it is.
        device: as for `TorchFiller`.
        precision: as for `TorchFiller`.
        engine: that of a network; "auto" is OpenVINO on a CPU where it takes the network.

    Raises:
        StartFailed: if OpenVINO is asked for and does not take the network.
    """
    if isinstance(generator, Classical) or engine == "torch":
        return TorchFiller(generator, device, precision)
    try:
        if device != "cpu":
            raise NotTaken(f"it computes on a CPU, the device is {device}")
        return OpenVINOFiller(generator, precision)
    except NotTaken as refusal:
        network = type(generator).__name__
        if engine == "openvino":
            raise StartFailed(f"OpenVINO does not take {network}: {refusal}") from refusal
        if device == "cpu":
            log.warning("PyTorch runs %s, which OpenVINO does not take: %s", network, refusal)
        return TorchFiller(generator, device, precision)


def padding(height: int, width: int, rule: SizeRule) -> tuple[int, int]:
    """Return how many rows below and columns on the right make a window fit the rule.

    Raises:
        ValueError: if the window exceeds the rule's fixed size.
    """
    if rule.fixed is not None:
        if max(height, width) > rule.fixed:
            raise ValueError(f"{height}x{width} exceeds the generator's {rule.fixed}x{rule.fixed}")
        return rule.fixed - height, rule.fixed - width
    down, right = (
        -(-max(side, rule.minimum) // rule.multiple) * rule.multiple - side
        for side in (height, width)
    )
    return down, right


def best_precision(device: str) -> Precision:
    """Return bfloat16 where the device has instructions for it, float32 elsewhere."""
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("amx_bf16") or able.get("avx512_bf16") else "float32"


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error, of any engine, means that a batch was too large for the memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, cv2.error):
        return error.code == cv2.Error.StsNoMem
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)


def device_failed(error: BaseException) -> bool:
    """Say whether an error means that the device will refuse whatever this process still asks."""
    return isinstance(error, torch.AcceleratorError)


class _OnPixels(nn.Module):
    """A generator between pixels and pixels: what a device computes at once."""

    def __init__(self, generator: Generator, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.generator = generator.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # stub lacks it

    def forward(self, pixels: Tensor, holes: Tensor) -> tuple[Tensor, Tensor]:
        """Return fills uint8 (B,H,W,3) and whether all values were finite (bool, no axes)."""
        image, mask = (
            tensor.to(dtype=self.dtype, memory_format=torch.channels_last)
            for tensor in (to_image(pixels), to_mask(holes))
        )
        fill = self.generator(image, mask)
        return to_levels(fill), torch.isfinite(fill).all()


def _still(generator: Generator) -> Generator:
    """Return a copy that is not trained."""
    return copy.deepcopy(generator).eval().requires_grad_(False)
