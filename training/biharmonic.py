"""Biharmonic fills, the smooth classical reference of scores; nothing serves them.

In the hole the bilaplacian is zero: the smoothest surface that joins what is known, in value and
slope. S. B. Damelin, N. S. Hoang, "On Surface Completion and Image Inpainting by Biharmonic
Functions: Numerical Aspects", International Journal of Mathematics and Mathematical Sciences 2018.
"""

from importlib import import_module
from typing import Any  # SciPy is untyped

import numpy as np
from numpy.typing import NDArray

from inpaint.errors import BadData
from inpaint.highres import SizeRule


class Biharmonic:
    """The `Filler` of `inpaint`: whole pictures, one by one, by a sparse linear system each."""

    rule = SizeRule(minimum=2, trained=1024, smaller=True)
    learned = False

    def __init__(self) -> None:
        """Find what solves the system.

        Raises:
            BadData: if SciPy is not installed.
        """
        try:
            self._sparse = import_module("scipy.sparse")
            self._solver = import_module("scipy.sparse.linalg")
        except ImportError as error:
            raise BadData("biharmonic needs SciPy, which the extra `demo` brings") from error

    def __call__(self, pixels: NDArray[np.uint8], holes: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return fills (B,H,W,3) for pixels (B,H,W,3), RGB, and holes (B,H,W), True = hole."""
        return np.stack([self._fill(*pair) for pair in zip(pixels, holes, strict=True)])

    def _fill(self, pixels: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
        sparse = self._sparse

        def along(length: int) -> Any:  # second differences; the border mirrors
            ends = np.full(length, -2.0)
            ends[[0, -1]] += 1
            return sparse.diags_array([1.0, ends, 1.0], offsets=[-1, 0, 1], shape=(length, length))

        height, width = hole.shape
        laplacian = sparse.kronsum(along(width), along(height), format="csr")
        inside = hole.ravel()
        rows = (laplacian @ laplacian)[inside]
        values = pixels.reshape(-1, 3)
        known = rows[:, ~inside] @ values[~inside].astype(np.float64)
        system = self._solver.splu(
            rows[:, inside].tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0,
            options={"SymmetricMode": True},
        )
        filled = values.copy()
        filled[inside] = np.rint(system.solve(-known)).clip(0, 255)
        return filled.reshape(pixels.shape)
