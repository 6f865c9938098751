"""How well two images agree once one is moved onto the other: fine registration of pairs that are already near.

Gauss-Newton over four numbers (zoom, turn, two shifts) from a start that the warps of `aligned_warps` gave, in both
directions: a crop of a train image is an exact resampling of it, and of nothing else; the other way round it is not.
What is returned was measured after an actual resampling, never on the linearised images.
(Lucas and Kanade 1981; Baker and Matthews 2004 for the composition.) It is the correlation after the best tone curve (a
parabola), because gamma is no difference.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from medgan.privacy.views import Views
from medgan.privacy.warps import Warp, margin, unit_px

_STEPS = 5
_BLOCK = 256
_RIDGE = 1e-4


def agreement(
    queries: Views, originals: Views, warps: list[Warp], *, index: npt.NDArray[np.integer] | None = None
) -> npt.NDArray[np.float32]:
    """(N,) largest pixel correlation of each query with its own original; `warps` (N) are where to start from.

    `index` (N,) tells which of the originals is whose; without it they go by their places.
    """
    index = np.arange(len(queries)) if index is None else index
    out = np.empty(len(queries), np.float32)
    for start in range(0, len(queries), _BLOCK):
        rows = slice(start, start + _BLOCK)
        first, second = torch.from_numpy(queries[rows]), torch.from_numpy(originals[index[rows]])
        begin = _affine(warps[rows], queries.shape[1])
        sign = torch.tensor([-1.0 if warp.negative else 1.0 for warp in warps[rows]])
        ways = _register(first, second, begin, sign), _register(second, first, _inverse(begin), sign)
        out[rows] = torch.maximum(*ways).numpy()
    return out


def _affine(warps: list[Warp], size: int) -> torch.Tensor:
    """(N, 2, 3) what `matrix(warp)` does to a place (y, x) about the centre."""
    angle = np.deg2rad([warp.angle for warp in warps])
    step = np.array([warp.step for warp in warps])
    mirror = np.where([warp.flip for warp in warps], -1.0, 1.0)
    cos, sin = np.cos(angle) * step, np.sin(angle) * step
    shift = np.array([(warp.dy, warp.dx) for warp in warps]) * unit_px(size)
    rows = np.stack([cos, -sin * mirror, shift[:, 0], sin, cos * mirror, shift[:, 1]], axis=1)
    return torch.from_numpy(rows.reshape(-1, 2, 3).astype(np.float32))


def _inverse(affine_N23: torch.Tensor) -> torch.Tensor:
    turned = torch.linalg.inv(affine_N23[:, :, :2])
    return torch.cat([turned, -turned @ affine_N23[:, :, 2:]], dim=2)


def _register(
    moving_NHW: torch.Tensor, fixed_NHW: torch.Tensor, affine_N23: torch.Tensor, sign_N: torch.Tensor
) -> torch.Tensor:
    """(N,) best correlation of the fixed images' inner windows with the moving images, sampled through `affine`."""
    size = fixed_NHW.shape[1]
    inner = slice(margin(size), size - margin(size))
    axis = torch.arange(size, dtype=torch.float32)[inner] - (size - 1) / 2
    y, x = (places.reshape(1, -1) for places in torch.meshgrid(axis, axis, indexing="ij"))
    target = _centred(fixed_NHW[:, inner, inner].flatten(1)) * sign_N[:, None]
    stack = torch.stack([moving_NHW, *torch.gradient(moving_NHW, dim=(1, 2))], dim=1)
    best = torch.full((len(fixed_NHW),), -1.0)
    for step in range(_STEPS):
        if step == _STEPS - 1:
            stack = stack[:, :1]  # the last look needs no slopes
        seen = _sampled(stack, affine_N23, y, x)
        image = _centred(seen[:, 0])
        scale = (image * target).sum(1) / (image * image).sum(1).clamp_min(1e-6)
        best = torch.maximum(best, _toned_correlation(target, image))
        if step < _STEPS - 1:
            affine_N23 = affine_N23 @ _step(seen[:, 1:], affine_N23, target - scale[:, None] * image, scale, y, x)
    return best


def _step(
    slopes_N2P: torch.Tensor,
    affine_N23: torch.Tensor,
    left_NP: torch.Tensor,
    scale_N: torch.Tensor,
    y: torch.Tensor,
    x: torch.Tensor,
) -> torch.Tensor:
    """(N, 3, 3) the small zoom, turn and shift that takes away most of what is `left`."""
    slopes = affine_N23[:, :, :2].transpose(1, 2) @ slopes_N2P
    down, right = slopes[:, 0], slopes[:, 1]
    tangents = _centred(torch.stack([down * y + right * x, right * y - down * x, down, right], dim=1))
    tangents = tangents * scale_N[:, None, None]
    square = tangents @ tangents.transpose(1, 2)
    ridge = _RIDGE * square.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-6)
    moved = torch.linalg.solve(square + ridge[:, None, None] * torch.eye(4), tangents @ left_NP[:, :, None])[:, :, 0]
    zoom, turn, dy, dx = moved.unbind(1)
    one, zero = torch.ones_like(zoom), torch.zeros_like(zoom)
    rows = [one + zoom, -turn, dy, turn, one + zoom, dx, zero, zero, one]
    return torch.stack(rows, dim=1).reshape(-1, 3, 3)


def _toned_correlation(target: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """(N, P) twice, of zero mean, to (N,): the correlation of `target` with the best parabola of `seen`."""
    line = seen / seen.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-6)
    curve = _centred(line.square())
    curve = curve - (curve * line).mean(-1, keepdim=True) * line
    straight, bent = (target * line).mean(-1), (target * curve).mean(-1)
    told = straight.square() + bent.square() / curve.square().mean(-1).clamp_min(1e-6)
    share = told / target.square().mean(-1).clamp_min(1e-12)
    return straight.sign() * share.clamp(0, 1).sqrt()


def _centred(rows: torch.Tensor) -> torch.Tensor:
    return rows - rows.mean(dim=-1, keepdim=True)


def _sampled(stack_NCHW: torch.Tensor, affine_N23: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(N, C, P) bilinear, the border repeated."""
    half = (stack_NCHW.shape[2] - 1) / 2
    places = affine_N23[:, :, :2] @ torch.cat([y, x]) + affine_N23[:, :, 2:]
    grid = places.flip(1).transpose(1, 2).unsqueeze(1) / half
    return functional.grid_sample(stack_NCHW, grid, padding_mode="border", align_corners=True)[:, :, 0]
