"""A generator on a device: pixels and holes in, fills out.

In: pixels uint8 (B,H,W,3), RGB, and holes bool (B,H,W), True = hole, of any size.
Out: fills uint8 (B,H,W,3), meaningful in the hole only.
"""

import copy
from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from inpaint.errors import ModelFailed
from inpaint.highres import SizeRule

from .classical import Classical
from .generator import Generator
from .tensors import to_image, to_mask, to_pixels

Precision = Literal["bfloat16", "float32"]


class TorchFiller:
    """A copy of a generator, ready to fill; the `Filler` of `inpaint`.

    Attributes:
        rule: that of the generator; windows of other sizes are padded by reflection.
        engine: what computes: "torch eager", or "opencv" for the classical ones.
        precision: of weights and features.
        device: "cpu", "cuda" or "cuda:N".
    """

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
        self.rule: SizeRule = generator.rule
        self.engine = "opencv" if classical else "torch eager"
        self.device = "cpu" if classical else device
        wanted = precision or best_precision(self.device)
        self.precision: Precision = "float32" if classical else wanted
        self._dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        self._generator = (
            copy.deepcopy(generator)
            .eval()
            .requires_grad_(False)
            .to(self.device, self._dtype)
            .to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # stub lacks it
        )

    # not inference_mode: its tensors may enter no graph, and a generator may optimise per picture
    @torch.no_grad()
    def __call__(self, pixels: NDArray[np.uint8], holes: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return the fills (B,H,W,3) of windows; pixels under the holes are ignored.

        Raises:
            ValueError: if pixels and holes disagree, or a window exceeds a fixed size.
            ModelFailed: if the generator computes values that are not finite.
        """
        if pixels.ndim != 4 or pixels.shape[3] != 3 or holes.shape != pixels.shape[:3]:
            raise ValueError(f"pixels {pixels.shape} and holes {holes.shape} disagree")
        height, width = pixels.shape[1:3]
        down, right = padding(height, width, self.rule)
        # Reflects again and again where a side is shorter than its padding.
        image = to_image(np.pad(pixels, ((0, 0), (0, down), (0, right), (0, 0)), mode="reflect"))
        mask = to_mask(np.pad(holes, ((0, 0), (0, down), (0, right)), mode="reflect"))
        fill = self._generator(
            image.to(self.device, self._dtype, memory_format=torch.channels_last),
            mask.to(self.device, self._dtype, memory_format=torch.channels_last),
        )[:, :, :height, :width]
        if not torch.isfinite(fill).all():
            raise ModelFailed("the generator computed values that are not finite")
        return to_pixels(fill)

    def warm(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Fill a blank window of each size (height, width): the first fill is a slow one."""
        for height, width in sizes:
            holes = np.zeros((1, height, width), bool)
            holes[:, : height // 2] = True
            self(np.zeros((1, height, width, 3), np.uint8), holes)


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
