"""A compact U-Net that finds damage: an image in, three logits for every pixel out.

A U-Net (Ronneberger et al., arXiv:1505.04597) at the picture's own resolution, made for lines of
one to three pixels and for CPUs:

* the stem turns blocks of pixels into channels: nothing is averaged away, and no convolution runs
  at full resolution;
* levels shrink by binomial blur-pooling (Zhang, arXiv:1904.11486) and grow bilinearly, so that an
  answer does not depend on where a line falls on the grid;
* the deepest level has dilated convolutions, to sum a faint line along its length;
* batch normalisation, which is folded into the convolutions for serving, and no statistics over
  the picture: tiles answer as the whole does.
"""

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from inpaint.highres import SizeRule

KINDS = ("line", "speck", "area")  # the three logits
SIDE = 640  # pixels, of the tiles in which pictures are searched
RARE = -4.0  # first bias of the logits: damage is rare


class Block(nn.Module):
    """A 3x3 convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B,outputs,H,W)."""
        return F.relu(self.norm(self.convolution(x)), inplace=True)

    def fold(self) -> None:
        """Make one convolution of the convolution and its norm; for serving alone."""
        assert isinstance(self.norm, nn.BatchNorm2d)
        self.convolution = fuse_conv_bn_eval(self.convolution, self.norm)
        self.norm = nn.Identity()


class BlurPool(nn.Module):
    """Half the size by the binomial filter 1-3-3-1, centred where bilinear growing puts pixels."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(taps, taps).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B,C,H/2,W/2)."""
        return F.conv2d(x, self.kernel.to(x.dtype), stride=2, padding=1, groups=x.shape[1])


class DamageUNet(nn.Module):
    """Encoder, dilated bottom, decoder with skips; logits by pixel shuffle."""

    @dataclass(frozen=True)
    class Config:
        """The shipped size."""

        widths: tuple[int, ...] = (32, 32, 64, 96)  # channels by level, each half as large
        stem: int = 2  # side of the blocks of pixels that become channels; 1: pixels as they are
        dilations: tuple[int, ...] = (1, 2, 4)  # of the deepest level

    source: ClassVar[str] = "after U-Net, arXiv:1505.04597"

    def __init__(self, config: Config) -> None:
        super().__init__()
        if len(config.widths) < 2 or min(config.widths) < 1 or config.stem < 1:
            raise ValueError(f"widths {config.widths}, stem {config.stem}: two levels at least")
        self.config = config
        widths, stem = config.widths, config.stem
        multiple = stem * 2 ** (len(widths) - 1)
        self.rule = SizeRule(multiple=multiple, minimum=multiple, trained=SIDE)
        self.first = nn.Sequential(Block(3 * stem**2, widths[0]), Block(widths[0], widths[0]))
        self.pools = nn.ModuleList(BlurPool(width) for width in widths[:-1])
        self.downs = nn.ModuleList()
        for level in range(1, len(widths)):
            rates = config.dilations if level == len(widths) - 1 else (1, 1)
            inputs = (widths[level - 1], *[widths[level]] * (len(rates) - 1))
            self.downs.append(
                nn.Sequential(
                    *(
                        Block(channels, widths[level], rate)
                        for channels, rate in zip(inputs, rates, strict=True)
                    )
                )
            )
        self.ups = nn.ModuleList(
            nn.Sequential(Block(below + width, width), Block(width, width))
            for width, below in pairwise(widths)
        )
        self.head = nn.Conv2d(widths[0], len(KINDS) * stem**2, 1)
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation; a fresh network finds nothing."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.constant_(self.head.bias, RARE)  # type: ignore[arg-type]  # it has one

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B,3,H,W), of `KINDS`.

        Args:
            image: float (B,3,H,W), RGB in [-1, 1]; H and W as `rule` says.
        """
        x = self.first(F.pixel_unshuffle(image, self.config.stem))
        skips = []
        for pool, down in zip(self.pools, self.downs, strict=True):
            skips.append(x)
            x = down(pool(x))
        for up, skip in zip(reversed(self.ups), reversed(skips), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = up(torch.cat([x, skip], dim=1))
        return F.pixel_shuffle(self.head(x), self.config.stem)

    def folded(self) -> "DamageUNet":
        """Return a copy in eval mode whose batch norms are part of the convolutions."""
        network = copy.deepcopy(self).eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, Block):
                module.fold()
        return network
