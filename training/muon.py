"""Muon: steps of convolutions are made orthogonal, so that no direction of a layer is left behind.

In: parameters with gradients. Out: moved ones. Jordan et al. 2024, "Muon: An optimizer for hidden
layers in neural networks"; its size that of Liu et al. 2025, arXiv:2502.16982, equation 4: steps
are as large as Adam's, and take Adam's rates. What is no convolution's weight moves by Adam.
"""

from collections.abc import Iterable
from typing import Any  # states of optimizers

import torch
from torch import Tensor

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the quintic, Jordan 2024
SIZE = 0.2  # root mean square of a step in units of the rate, arXiv:2502.16982
TINY = 1e-8


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, for weights (out,in,k,k); Adam for all others.

    Args:
        parameters: of a network.
        betas: of Adam.
    """

    def __init__(self, parameters: Iterable[Tensor], betas: tuple[float, float]) -> None:
        self.betas = betas
        super().__init__(parameters, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # never with a closure
        """Move every parameter that has a gradient, at the `lr` of its group."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                move = self._muon if parameter.ndim == 4 else self._adam
                move(parameter, parameter.grad, self.state[parameter], group["lr"])

    def _muon(self, weight: Tensor, gradient: Tensor, state: dict[str, Any], rate: float) -> None:
        if not state:
            state["mean"] = torch.zeros_like(weight)
        mean = state["mean"].lerp_(gradient, 1 - MOMENTUM)
        step = orthogonal(gradient.lerp(mean, MOMENTUM).flatten(1))
        weight.sub_(step.view(weight.shape), alpha=rate * SIZE * max(step.shape) ** 0.5)

    def _adam(self, weight: Tensor, gradient: Tensor, state: dict[str, Any], rate: float) -> None:
        if not state:
            state.update(mean=torch.zeros_like(weight), square=torch.zeros_like(weight), step=0)
        state["step"] += 1
        first, second = self.betas
        mean = state["mean"].lerp_(gradient, 1 - first) / (1 - first ** state["step"])
        square = state["square"].lerp_(gradient.square(), 1 - second)
        weight.addcdiv_(mean, (square / (1 - second ** state["step"])).sqrt() + TINY, value=-rate)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return U V^T of a matrix U S V^T (rows,columns), nearly: singular values come to about 1.

    Newton-Schulz iterations with a quintic, in bfloat16 as in Jordan 2024.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).bfloat16()
    x = x / (x.norm() + TINY)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x if wide else x.T).to(matrix.dtype)
