"""The Fréchet distance between two sets of pictures, over a feature network that is named.

In: images (B,3,H,W) in [-1, 1], batch by batch. Out: one number for the two sets, 0 = their
features have one mean and one covariance.

The formula is that of Dowson and Landau 1982 for two Gaussians, used on features by Heusel et al.,
arXiv:1706.08500. Their FID takes 2048 features of one certain Inception network; over any other
network it is not FID, and numbers over two networks cannot be compared. Nor can numbers over two
counts of pictures: covariances of n pictures have at most n - 1 directions, and the fewer they are,
the larger the distance.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from . import lpips
from .features import TAPS, FeatureNetwork, load_features, normalise

Values = NDArray[np.float64]

# File names of the trunks in a features folder.
FILES = {
    "squeeze": lpips.FILES["squeeze"][0],
    "alex": lpips.FILES["alex"][0],
    "vgg16": "vgg16_torchvision_features.safetensors",
    "vgg19": "vgg19_torchvision_features.safetensors",
}


class Pooled(nn.Module):
    """The activations behind a trunk's last tap, averaged over places: a few hundred numbers."""

    def __init__(self, trunk: FeatureNetwork) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, image: Tensor) -> Tensor:
        """Return the features (B,C) of images (B,3,H,W) in [-1, 1]."""
        (activations,) = self.trunk(normalise(image)).values()
        return activations.mean((2, 3))


def load(network: str, folder: Path) -> Pooled:
    """Return the pooled features of `network`, a key of `FILES`, from its file in `folder`.

    Raises:
        BadData: if the file is missing or holds something else.
    """
    return Pooled(load_features(network, folder / FILES[network], [list(TAPS[network])[-1]]))


class Statistics:
    """Mean and covariance of features that come batch by batch and are not kept."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Values = np.zeros(0)
        self._scatter: Values = np.zeros((0, 0))

    def add(self, features: Tensor) -> None:
        """Take in a batch (B,C); the pairwise update of Chan, Golub and LeVeque 1979."""
        values = features.detach().cpu().numpy().astype(np.float64)
        if not self.count:
            self.mean = np.zeros(values.shape[1])
            self._scatter = np.zeros((values.shape[1],) * 2)
        mean = values.mean(0)
        rest, shift = values - mean, mean - self.mean
        total = self.count + len(values)
        weight = self.count * len(values) / total
        self._scatter += rest.T @ rest + weight * np.outer(shift, shift)
        self.mean += shift * (len(values) / total)
        self.count = total

    def covariance(self) -> Values:
        """Return the sample covariance (C,C), divided by n - 1.

        Raises:
            ValueError: of fewer than two pictures.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} pictures have no covariance")
        return self._scatter / (self.count - 1)


def distance(a: Statistics, b: Statistics) -> float:
    """Return |mean a - mean b|^2 + trace(A + B - 2 sqrt(sqrt(A) B sqrt(A))), at least 0.

    Raises:
        ValueError: if a set has fewer than two pictures.
    """
    first, second = a.covariance(), b.covariance()
    # With M = sqrt(A) sqrt(B), the last trace is that of sqrt(M M^T): M's singular values, summed.
    common = np.linalg.svd(_root(first) @ _root(second), compute_uv=False).sum()
    apart = np.square(a.mean - b.mean).sum()
    return max(float(apart + np.trace(first) + np.trace(second) - 2 * common), 0.0)


def _root(covariance: Values) -> Values:
    """Return the symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T, np.float64)
