"""The interface of every generator: an image and a mask in, a fill out."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inpaint.highres import SizeRule


class Generator(nn.Module):
    """Fills the hole of an image.

    Subclasses take their frozen `Config` dataclass as the only constructor argument, keep it as
    `self.config`, and implement `generate`, which never receives a pixel of the hole.
    """

    Config: ClassVar[type]
    config: Any  # an instance of the subclass's Config
    rule: SizeRule = SizeRule()  # class default; a checkpoint's header may narrow it
    learned: ClassVar[bool] = True
    source: ClassVar[str] = ""  # paper, with its arXiv number or DOI

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return the fill of `image`.

        Args:
            image: float (B,3,H,W), RGB in [-1, 1]. Hole pixels are ignored.
            mask: float (B,1,H,W); 1 = hole, 0 = known. Same device and dtype.

        Returns:
            float (B,3,H,W) in [-1, 1]. Values outside the hole are unspecified: composite before
            use.

        Raises:
            ValueError: if a shape breaks `rule`, or image and mask disagree.
        """
        # sizes are variables in a trace
        if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            self._check(image, mask)
        return self.generate(image * (1 - mask), mask)

    def generate(self, visible: Tensor, mask: Tensor) -> Tensor:
        """Return the fill; `visible` (B,3,H,W) in [-1, 1] has its hole blanked to 0."""
        raise NotImplementedError

    def _check(self, image: Tensor, mask: Tensor) -> None:
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"image {tuple(image.shape)} is not (B,3,H,W)")
        if mask.shape != (image.shape[0], 1, *image.shape[2:]):
            raise ValueError(
                f"mask {tuple(mask.shape)} does not belong to image {tuple(image.shape)}"
            )
        height, width = image.shape[2:]
        if not self.rule.accepts(height, width):
            raise ValueError(f"{height}x{width} breaks {self.rule}")
