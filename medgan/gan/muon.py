"""Muon for convolutions: a kernel moves in all of its directions alike, however unequal its gradient is.

The momentum of each kernel, a matrix of outputs by inputs x taps, is replaced by about the nearest orthogonal one: five
Newton-Schulz iterations (Jordan et al. 2024). A step has the size that Adam's would have (Liu et al. 2025), so learning
rates mean the same. Biases, and kernels from or to few channels (the last layer's), follow Adam.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_LEAST_CHANNELS = 9
"""A matrix of fewer rows or columns has few directions: the last layer's are two pictures of four parts each."""
_MOMENTUM = 0.95
_BETAS = 0.9, 0.99
_STEP_SIZE = 0.2
"""Root mean square of a step, in learning rates: Adam's, as Liu et al. measured it."""


class Muon(torch.optim.Optimizer):
    """One group of parameters with one learning rate; moments are float32 of each parameter's shape."""

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        """For kernels (O, I, h, w) and whatever else a network has."""
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002 - the base's signature
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    state["first"] = torch.zeros_like(parameter)
                    if not _is_matrix(parameter):
                        state["second"] = torch.zeros_like(parameter)
                state["step"] += 1
                move = _orthogonal if _is_matrix(parameter) else _adam
                parameter.sub_(move(parameter.grad, state), alpha=group["lr"])


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim > 1 and min(parameter.shape[:2]) >= _LEAST_CHANNELS


def _orthogonal(gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
    state["first"].lerp_(gradient, 1 - _MOMENTUM)
    ahead = gradient.lerp(state["first"], _MOMENTUM).flatten(1)  # Nesterov's look
    size: float = _STEP_SIZE * max(ahead.shape) ** 0.5
    return size * orthogonal(ahead).reshape(gradient.shape)


def orthogonal(matrix_RC: Tensor) -> Tensor:
    """About the nearest matrix with orthonormal rows or columns: singular values between 0.7 and 1.2."""
    wide = matrix_RC.shape[0] <= matrix_RC.shape[1]
    x: Tensor = matrix_RC if wide else matrix_RC.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):  # the quintic of Jordan et al., whose slope at 0 is the steepest
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x if wide else x.T


def _adam(gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
    state["first"].lerp_(gradient, 1 - _BETAS[0])
    state["second"].lerp_(gradient.square(), 1 - _BETAS[1])
    steps = int(state["step"])
    mean, power = state["first"] / (1 - _BETAS[0] ** steps), state["second"] / (1 - _BETAS[1] ** steps)
    step: Tensor = mean / (power.sqrt() + 1e-8)
    return step
