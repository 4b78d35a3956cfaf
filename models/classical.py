"""Classical fills behind the interface of the networks: no weights, no checkpoint, no training.

* Telea: A. Telea, "An Image Inpainting Technique Based on the Fast Marching Method", Journal of
  Graphics Tools 9(1), 2004: each hole pixel, from the rim inwards, is a weighted mean of its known
  neighbours and their gradients.
* Navier-Stokes: M. Bertalmio, A. Bertozzi, G. Sapiro, "Navier-Stokes, Fluid Dynamics, and Image and
  Video Inpainting", CVPR 2001: lines of equal brightness are continued into the hole.

Both are OpenCV's. They are always served, and a learned model is judged against them.
"""

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from torch import Tensor

from inpaint.highres import SizeRule

from .generator import Generator
from .tensors import to_image, to_pixels


class Classical(Generator):
    """What the two share: images become pixels, and OpenCV fills them one by one on the CPU."""

    @dataclass(frozen=True)
    class Config:
        """OpenCV's own examples use this radius."""

        radius: int = 3  # pixels around each hole pixel that are taken into account

    # No size suits them better than another: this one bounds time and memory.
    rule = SizeRule(minimum=2, trained=1024, smaller=True)
    learned = False
    method: ClassVar[int]  # OpenCV's number for the algorithm

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.radius < 1:
            raise ValueError(f"radius = {config.radius}; a radius is at least 1 pixel")
        self.config = config

    def generate(self, visible: Tensor, mask: Tensor) -> Tensor:
        """Return the fill (B,3,H,W), equal to `visible` outside the hole up to rounding to 8 bits.

        A hole without any known pixel around it stays blank.
        """
        holes = (mask[:, 0] > 0.5).byte().cpu().numpy()  # (B,H,W)
        fills = [
            cv2.inpaint(pixels, hole, self.config.radius, self.method)
            for pixels, hole in zip(to_pixels(visible), holes, strict=True)
        ]
        return to_image(np.stack(fills).astype(np.uint8, copy=False)).to(visible)


class Telea(Classical):
    """Fast marching from the rim inwards."""

    method = cv2.INPAINT_TELEA
    source = "doi:10.1080/10867651.2004.10487596"


class NavierStokes(Classical):
    """Isophotes continued by fluid dynamics."""

    method = cv2.INPAINT_NS
    source = "doi:10.1109/CVPR.2001.990497"
