"""The Fréchet distance between two sets of pictures, over a feature network that is named.

In: images (B,3,H,W) in [-1, 1], batch by batch. Out: one number for the two sets, 0 = their
features have one mean and one covariance.

The formula is that of Dowson and Landau 1982 for two Gaussians, used on features by Heusel et al.,
arXiv:1706.08500. Their FID takes 2048 features of one certain Inception network (`inception.py`);
over any other network it is not FID, and numbers over two networks cannot be compared. Nor can
numbers over two counts of pictures: covariances of n pictures have at most n - 1 directions, and
the fewer they are, the larger the distance.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from . import inception, lpips
from .features import TAPS, FeatureNetwork, load_features, normalise

Values = NDArray[np.float64]
Network = Callable[[Tensor], Tensor]  # images (B,3,H,W) in [-1, 1] to features (B,C)

# File names of the trunks in a features folder.
FILES = {
    "squeeze": lpips.FILES["squeeze"][0],
    "alex": lpips.FILES["alex"][0],
    "vgg16": "vgg16_torchvision_features.safetensors",
    "vgg19": "vgg19_torchvision_features.safetensors",
}
NETWORKS = (*FILES, "inception")


class Pooled(nn.Module):
    """The activations behind a trunk's last tap, averaged over places: a few hundred numbers."""

    def __init__(self, trunk: FeatureNetwork) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, image: Tensor) -> Tensor:
        """Return the features (B,C) of images (B,3,H,W) in [-1, 1]."""
        (activations,) = self.trunk(normalise(image)).values()
        return activations.mean((2, 3))


def load(network: str, folder: Path) -> Network:
    """Return what takes the features of `network`, one of `NETWORKS`, from its file in `folder`.

    Raises:
        BadData: if the file is missing or holds something else.
    """
    if network == "inception":
        return inception.load(folder)
    return Pooled(load_features(network, folder / FILES[network], [list(TAPS[network])[-1]]))


def score(network: str) -> str:
    """Return the name of the distance over `network`: "fid" is for that of FID's definition."""
    return "fid" if network == "inception" else f"frechet ({network})"


class Statistics:
    """Mean and covariance of features that come batch by batch.

    Of C features no more than C pictures are kept; so few are cheaper than their covariance.
    """

    def __init__(self) -> None:
        self.count = 0
        self._origin: Values = np.zeros(0)  # the first picture: differences keep their digits
        self._sum: Values = np.zeros(0)  # of differences from it
        self._kept: list[Values] = []  # such differences, of pictures that are not in:
        self._products: Values | None = None

    def add(self, features: Tensor) -> None:
        """Take in a batch (B,C)."""
        values = features.detach().cpu().numpy().astype(np.float64)
        if not self.count:
            self._origin, self._sum = values[0], np.zeros(values.shape[1])
        values = values - self._origin
        self.count += len(values)
        self._sum += values.sum(0)
        self._kept.extend(values)
        if len(self._kept) > values.shape[1]:
            self._multiply()

    def _multiply(self) -> Values:
        rows = np.reshape(self._kept, (-1, len(self._sum)))
        products = rows.T @ rows
        self._products = products if self._products is None else self._products + products
        self._kept = []
        return self._products

    @property
    def mean(self) -> Values:
        """The mean (C,)."""
        return self._origin + self._sum / self.count

    def covariance(self) -> Values:
        """Return the sample covariance (C,C), divided by n - 1.

        Raises:
            ValueError: of fewer than two pictures.
        """
        self._refuse_one()
        shift = np.outer(self._sum, self._sum) / self.count
        return np.asarray((self._multiply() - shift) / (self.count - 1), np.float64)

    def factor(self) -> Values:
        """Return an F of n or C rows, whichever is less, for which F^T F is the covariance.

        Raises:
            ValueError: of fewer than two pictures.
        """
        self._refuse_one()
        if self._products is not None:
            return _root(self.covariance())
        return np.asarray((self._kept - self._sum / self.count) / np.sqrt(self.count - 1))

    def _refuse_one(self) -> None:
        if self.count < 2:
            raise ValueError(f"{self.count} pictures have no covariance")


def distance(a: Statistics, b: Statistics) -> float:
    """Return |mean a - mean b|^2 + trace(A + B - 2 sqrt(sqrt(A) B sqrt(A))), at least 0.

    Raises:
        ValueError: if a set has fewer than two pictures.
    """
    first, second = a.factor(), b.factor()
    # With A = F^T F and B = G^T G, the last trace is the sum of the singular values of F G^T.
    common = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    spread = np.square(first).sum() + np.square(second).sum()
    return max(float(np.square(a.mean - b.mean).sum() + spread - 2 * common), 0.0)


def _root(covariance: Values) -> Values:
    """Return the symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T, np.float64)
