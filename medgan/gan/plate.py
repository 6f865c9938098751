"""The surface through the rims of holes that bends least (thin plate, biharmonic: Duchon 1977)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, find_objects
from scipy.sparse import csc_array, csr_array
from scipy.sparse.linalg import splu

from medgan.gan.measurement import Image

Grid = NDArray[np.float64]
Hole = NDArray[np.bool_]
Solve = Callable[[Grid], Grid]

DIRECT = 40_000
"""Up to so many missing pixels the system is factorized, which takes a second at most; above, cost would explode."""
_COARSEST, _ROUNDS, _LEFT = 12_000, 60, 2e-5
_MOST, _ROUGH = 64.0, 4.0
"""The plate's largest eigenvalue, and the least of those that the grid of half the pixels does not hold."""


def thin_plate(seen_HW: Image, hole_HW: Hole) -> Image:
    """Holes filled by the surface through their rims that bends least; values stay within what is known.

    A rim's slopes go on into the hole, which the mean of its values (harmonic) does not. Up to `DIRECT` missing pixels
    exactly; above to about a thousandth of the range of values, by conjugate gradients over coarser grids: time and
    memory are then in proportion to the box about the holes, whatever their shape, up to a minute and 0.8 GB for
    2048 x 2048 px (docs/adr/0094; nearly nothing known but lines of one pixel: less exactly).
    """
    if not hole_HW.any() or hole_HW.all():
        return seen_HW.copy()
    low, high = seen_HW[~hole_HW].min(), seen_HW[~hole_HW].max()
    fill = _factorized if np.count_nonzero(hole_HW) <= DIRECT else _iterated
    out = seen_HW.astype(np.float32)
    out[hole_HW] = np.clip(fill(np.where(hole_HW, 0, seen_HW.astype(np.float64)), hole_HW), low, high)
    return out


def _factorized(known_HW: Grid, hole_HW: Hole) -> Grid:
    bent, free, solver = _system(hole_HW)
    return np.asarray(solver.solve(-(free.T @ (bent @ known_HW.ravel()))))


def _iterated(known_HW: Grid, hole_HW: Hole) -> Grid:
    """Preconditioned conjugate gradients, within the holes' box; a plate reaches two pixels beyond its rim."""
    rows, columns = find_objects(hole_HW.astype(np.int8))[0]
    box = tuple(slice(max(0, side.start - 2), side.stop + 2) for side in (rows, columns))
    hole, known = hole_HW[box], known_HW[box]
    known = np.where(hole, known[~hole].mean(), known)
    coarsely = _cycle(hole)
    fill, left = np.zeros_like(known), -_bending(known, hole)
    step = ahead = coarsely(left)
    first = power = np.vdot(left, ahead)
    for _ in range(_ROUNDS):
        if power <= _LEFT**2 * first:
            break
        force = _bending(step, hole)
        length = power / np.vdot(step, force)
        fill += length * step
        left -= length * force
        ahead = coarsely(left)
        before, power = power, np.vdot(left, ahead)
        step = ahead + power / before * step
    return np.asarray((known + fill)[hole])


def _cycle(hole_HW: Hole) -> Solve:
    """A multigrid V-cycle: about the inverse of `_bending`, symmetric and positive as conjugate gradients need it.

    A coarse pixel is missing where all nine about it are, so that what a coarser grid adds does not touch a rim.
    """
    if np.count_nonzero(hole_HW) <= _COARSEST:
        return _exactly(hole_HW)
    rows, columns = (_between(side) for side in hole_HW.shape)
    inner_HW = binary_erosion(hole_HW, np.ones((3, 3), np.bool_), border_value=1)[::2, ::2]
    coarser = _cycle(inner_HW)

    def solve(force: Grid) -> Grid:
        out = _smoothed(force, hole_HW)
        left = (rows.T @ (force - _bending(out, hole_HW)) @ columns) * inner_HW
        # Squared second differences are 16 times as large there, and of a quarter of the pixels.
        out += 4 * (rows @ coarser(left) @ columns.T)
        out += _smoothed(force - _bending(out, hole_HW), hole_HW)
        return out

    return solve


def _exactly(hole_HW: Hole) -> Solve:
    if not hole_HW.any():
        return np.zeros_like
    solver = _system(hole_HW)[2]

    def solve(force: Grid) -> Grid:
        out = np.zeros_like(force)
        out[hole_HW] = solver.solve(force[hole_HW])
        return out

    return solve


def _smoothed(force: Grid, hole_HW: Hole) -> Grid:
    """What three Chebyshev steps for the rough half of the spectrum make of a force (Adams et al. 2003)."""
    centre, half = (_MOST + _ROUGH) / 2, (_MOST - _ROUGH) / 2
    damp = half / centre
    left = force.copy()
    step = left / centre
    out = step.copy()
    for _ in range(2):
        left -= _bending(step, hole_HW)
        before, damp = damp, 1 / (2 * centre / half - damp)
        step = damp * before * step + 2 * damp / half * left
        out += step
    return out


def _bending(surface: Grid, hole_HW: Hole) -> Grid:
    """How strongly a plate resists in its hole: the Laplacian of its Laplacian."""
    return np.asarray(_curved(_curved(surface)) * hole_HW)


def _curved(surface: Grid) -> Grid:
    """Differences of each pixel to the neighbours that it has, as `_laplacian`, without a matrix."""
    out = np.zeros_like(surface)
    down, right = np.diff(surface, axis=0), np.diff(surface, axis=1)
    out[:-1] += down
    out[1:] -= down
    out[:, :-1] += right
    out[:, 1:] -= right
    return out


def _between(side: int) -> csr_array:
    """(side, ceil(side / 2)) linear interpolation from every second pixel; beyond the last of these it is level."""
    at = np.arange(side)
    last = (side - 1) // 2
    ends = np.concatenate([at // 2, np.minimum((at + 1) // 2, last)])
    return csr_array((np.full(2 * side, 0.5), (np.concatenate([at, at]), ends)), shape=(side, last + 1))


def _system(hole_HW: Hole) -> tuple[csc_array, csc_array, Any]:
    """Curvatures of all pixels near a hole, of those in it alone, and the factorized system for them."""
    bent = _laplacian(hole_HW)
    free = bent[:, np.flatnonzero(hole_HW.ravel())]
    return bent, free, splu((free.T @ free).tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})


def _laplacian(hole_HW: NDArray[np.bool_]) -> csc_array:
    """(R, H W) differences of each pixel in or beside a hole to the neighbours that it has."""
    height, width = hole_HW.shape
    near = np.flatnonzero(binary_dilation(hole_HW))
    row, column = np.divmod(near, width)
    beside = [(row > 0, -width), (row < height - 1, width), (column > 0, -1), (column < width - 1, 1)]
    one = np.arange(len(near))
    at = np.concatenate([one, *(one[there] for there, _ in beside)])
    other = np.concatenate([near, *((near + step)[there] for there, step in beside)])
    neighbours = np.sum([there for there, _ in beside], axis=0)
    values = np.concatenate([-neighbours, np.ones(len(at) - len(near))])
    return csc_array((values, (at, other)), shape=(len(near), hole_HW.size))
