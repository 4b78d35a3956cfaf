"""Inception v3 as FID takes its features from it.

In: images (B,3,H,W) in [-1, 1]. Out: the 2048 features of each, averages over the last 8x8 places.

The network: Szegedy et al., arXiv:1512.00567; FID: Heusel et al., arXiv:1706.08500. FID is defined
over one set of weights, TensorFlow's of 2015-12-05, which mseitzer/pytorch-fid made a state dict
with torchvision's names: 1008 classes, no auxiliary head. Their graph pools unlike torchvision's:
averages leave out the padding, and the last block takes the largest value where every other takes
the average. Batch norms have eps 0.001.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaint.errors import BadData

from .features import take_weights

FILES = ("pt_inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.safetensors")
SIDE = 299  # pixels of the square that the network sees
FEATURES = 2048
CLASSES = 1008  # torchvision's own weights have 1000

Kernel = tuple[int, int]
# Channels of a step, and the kernels of its units, which work side by side: two only in `E`.
Step = tuple[int, *tuple[Kernel, ...]]
Branches = Mapping[str, Sequence[Step]]

POINT: Kernel = (1, 1)
SQUARE: Kernel = (3, 3)
ROW: Kernel = (1, 7)
COLUMN: Kernel = (7, 1)
CROSS: tuple[Kernel, Kernel] = ((1, 3), (3, 1))

# Branches by the first part of their units' names: the blocks of the paper's figures 5, 6, 7 and 10
# as the published network has them.
A: Branches = {
    "branch1x1": [(64, POINT)],
    "branch5x5": [(48, POINT), (64, (5, 5))],
    "branch3x3dbl": [(64, POINT), (96, SQUARE), (96, SQUARE)],
}
B: Branches = {
    "branch3x3": [(384, SQUARE)],
    "branch3x3dbl": [(64, POINT), (96, SQUARE), (96, SQUARE)],
}
D: Branches = {
    "branch3x3": [(192, POINT), (320, SQUARE)],
    "branch7x7x3": [(192, POINT), (192, ROW), (192, COLUMN), (192, SQUARE)],
}
E: Branches = {
    "branch1x1": [(320, POINT)],
    "branch3x3": [(384, POINT), (384, *CROSS)],
    "branch3x3dbl": [(448, POINT), (384, SQUARE), (384, *CROSS)],
}


def _c(inner: int) -> Branches:
    """Return the branches of a block with 7x7 convolutions taken apart, of `inner` channels."""
    across, down = (inner, ROW), (inner, COLUMN)
    return {
        "branch1x1": [(192, POINT)],
        "branch7x7": [(inner, POINT), across, (192, COLUMN)],
        "branch7x7dbl": [(inner, POINT), down, across, down, (192, ROW)],
    }


class Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self, before: int, after: int, kernel: Kernel, *, stride: int = 1, padded: bool = True
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else 0
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B,after,h,w)."""
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches of units side by side, the last of them a pool.

    Args:
        before: channels that come in.
        branches: steps of each branch; of several steps the units are numbered from 1.
        pool: of the last branch.
        pooled: channels of the 1x1 unit behind the pool; None: no unit, and the block halves the
            sides, with stride 2 and no padding in every branch's last step.
    """

    def __init__(
        self, before: int, branches: Branches, pool: nn.Module, pooled: int | None = None
    ) -> None:
        super().__init__()
        halves = pooled is None
        self.branches: list[list[list[str]]] = []  # of steps, of names of units
        for branch, steps in branches.items():
            self.branches.append([])
            width = before
            for number, (after, *kernels) in enumerate(steps, start=1):
                step = branch if len(steps) == 1 else f"{branch}_{number}"
                names = [step] if len(kernels) == 1 else [step + letter for letter in "ab"]
                last = halves and number == len(steps)
                for name, kernel in zip(names, kernels, strict=True):
                    unit = Unit(width, after, kernel, stride=2 if last else 1, padded=not last)
                    self.add_module(name, unit)
                self.branches[-1].append(names)
                width = after * len(kernels)
        self.pool = pool
        self.branch_pool = nn.Identity() if pooled is None else Unit(before, pooled, POINT)

    def forward(self, x: Tensor) -> Tensor:
        """Return what all branches make of (B,before,H,W), channels one after the other."""
        found = []
        for steps in self.branches:
            y = x
            for names in steps:
                y = torch.cat([self.get_submodule(name)(y) for name in names], 1)
            found.append(y)
        return torch.cat([*found, self.branch_pool(self.pool(x))], 1)


def _average() -> nn.Module:
    return nn.AvgPool2d(3, 1, 1, count_include_pad=False)


def _halve() -> nn.Module:
    return nn.MaxPool2d(3, 2)


class InceptionV3(nn.Module):
    """The frozen network; its stages in the order of its children."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, SQUARE, stride=2, padded=False)
        self.Conv2d_2a_3x3 = Unit(32, 32, SQUARE, padded=False)
        self.Conv2d_2b_3x3 = Unit(32, 64, SQUARE)
        self.maxpool1 = _halve()
        self.Conv2d_3b_1x1 = Unit(64, 80, POINT)
        self.Conv2d_4a_3x3 = Unit(80, 192, SQUARE, padded=False)
        self.maxpool2 = _halve()
        self.Mixed_5b = Mixed(192, A, _average(), 32)
        self.Mixed_5c = Mixed(256, A, _average(), 64)
        self.Mixed_5d = Mixed(288, A, _average(), 64)
        self.Mixed_6a = Mixed(288, B, _halve())
        self.Mixed_6b = Mixed(768, _c(128), _average(), 192)
        self.Mixed_6c = Mixed(768, _c(160), _average(), 192)
        self.Mixed_6d = Mixed(768, _c(160), _average(), 192)
        self.Mixed_6e = Mixed(768, _c(192), _average(), 192)
        self.Mixed_7a = Mixed(768, D, _halve())
        self.Mixed_7b = Mixed(1280, E, _average(), 192)
        self.Mixed_7c = Mixed(2048, E, nn.MaxPool2d(3, 1, 1), 192)
        # No feature needs it. It tells FID's weights from torchvision's, alike in all else.
        self.fc = nn.Linear(FEATURES, CLASSES)
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> Tensor:
        """Return the features (B,2048) of images (B,3,H,W) in [-1, 1], whatever their size."""
        square = F.interpolate(image, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return self.features(square)

    def features(self, image: Tensor) -> Tensor:
        """Return the features (B,2048) of images that keep their size, 75 pixels at least."""
        *stages, _ = self.children()
        for stage in stages:
            image = stage(image)
        return image.mean((2, 3))


def load(folder: Path) -> InceptionV3:
    """Return the network with the weights of one of `FILES` in `folder`.

    Raises:
        BadData: if there is none, or it holds something else.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise BadData(
            f"{folder} holds neither {FILES[0]} nor a .safetensors of that name: the weights of the"
            " Inception network that FID is defined over, which mseitzer/pytorch-fid publishes"
        )
    network = InceptionV3()
    take_weights(network, path, "FID's Inception, named as by pytorch-fid")
    return network
