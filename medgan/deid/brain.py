"""Where the brain is in a head volume: a balloon that grows from its middle until it meets the skull.

S. M. Smith, Fast robust automated brain extraction, Human Brain Mapping 17 (2002): a tessellated sphere, pushed by the
brightness below each vertex and held smooth by its own curvature. Works on T1, T2, PD, EPI and, with bone and air
set dark, on CT. The volume is expected on a coarse isotropic grid: the mask guards a plane, it measures nothing.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

ITERATIONS = 600
SUBDIVISIONS = 4  # 2,562 vertices
SMOOTH_MM, ROUGH_MM = 10.0, 3.33  # radii of curvature between which smoothing sets in (Smith eq. 6)
SEARCH_MM, NEAR_MM = 20.0, 10.0  # how far below a vertex the darkest and the brightest value are looked for
FRACTION = 0.5  # of the local range, that separates brain from what surrounds it (Smith's bt)
STEP = 0.05
HEAD_MM = 165.0  # from the vertex to below the cerebellum of an adult (FSL's robustfov keeps 170)
_FLUID_HU, _SOFT_TISSUE_HU = -20.0, 100.0  # between fat and bone: brain, blood, fluid, contrast medium aside
_VERTEX_MM2 = 2000.0
_SMALLEST_HEAD_MM3 = 4e5


@dataclass(frozen=True, slots=True, kw_only=True)
class Brain:
    """`mask` (Z, Y, X) bool on the grid of the volume, and `vertices` (N, 3) of its surface in voxels (z, y, x)."""

    mask: NDArray[np.bool_]
    vertices: NDArray[np.float64]


@functools.cache
def sphere(subdivisions: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Unit icosphere: vertices (N, 3) and triangles (M, 3)."""
    golden = (1 + 5**0.5) / 2
    corners = [(-1, golden, 0), (1, golden, 0), (-1, -golden, 0), (1, -golden, 0)]
    vertices = np.array([np.roll(corner, turn) for turn in range(3) for corner in corners], float)
    vertices /= np.linalg.norm(vertices[0])
    distances = np.linalg.norm(vertices[:, None] - vertices[None], axis=2)
    near = np.isclose(distances, distances[distances > 0].min())
    faces = [
        (a, b, c) for a in range(12) for b in range(a) for c in range(b) if near[a, b] and near[b, c] and near[a, c]
    ]
    triangles = np.array(faces)
    for _ in range(subdivisions):
        vertices, triangles = _subdivide(vertices, triangles)
    return vertices, triangles


def _subdivide(
    vertices: NDArray[np.float64], triangles: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Each triangle becomes four; new vertices lie on the sphere."""
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    unique, inverse = np.unique(edges, axis=0, return_inverse=True)
    middle = vertices[unique].sum(axis=1)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    ab, bc, ca = inverse.reshape(3, -1) + len(vertices)
    a, b, c = triangles.T
    split = [np.stack(corners, axis=1) for corners in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))]
    return np.concatenate([vertices, middle]), np.concatenate(split)


@functools.cache
def _neighbours(subdivisions: int) -> NDArray[np.int64]:
    """(N, 6) neighbours of each vertex; the twelve that have five repeat one."""
    vertices, triangles = sphere(subdivisions)
    around: list[set[int]] = [set() for _ in vertices]
    for a, b, c in triangles.tolist():
        around[a] |= {b, c}
        around[b] |= {a, c}
        around[c] |= {a, b}
    return np.array([(sorted(one) + sorted(one))[:6] for one in around])


def soft_tissue(hounsfield: NDArray[Any]) -> NDArray[np.float32]:
    """A CT volume in which soft tissue and fluid shine alike (1) and air and bone are dark (0)."""
    smooth = ndimage.median_filter(np.asarray(hounsfield, np.float32), 3)
    soft = (smooth > _FLUID_HU) & (smooth < _SOFT_TISSUE_HU)
    return soft.astype(np.float32)


def head_rows(volume: NDArray[np.float32], spacing_mm: float) -> slice:
    """Rows (Z, feet first) from the vertex down to where a neck begins: the balloon must not start in a neck."""
    low, high = (float(value) for value in np.percentile(volume, (2, 98)))
    tissue = ndimage.binary_opening(volume > low + 0.1 * (high - low))
    areas_mm2 = tissue.sum(axis=(1, 2)) * spacing_mm**2
    occupied = np.flatnonzero(areas_mm2 > _VERTEX_MM2)
    top = int(occupied[-1]) + 1 if occupied.size else len(volume)
    return slice(max(0, top - round(HEAD_MM / spacing_mm)), top)


def find(volume: NDArray[np.float32], spacing_mm: float, fraction: float = FRACTION) -> Brain | None:
    """The brain in `volume` (Z, Y, X; feet first), isotropic; `None` where there is nothing to start from."""
    rows = head_rows(volume, spacing_mm)
    found = _find(volume[rows], spacing_mm, fraction)
    if found is None:
        return None
    mask = np.zeros(volume.shape, bool)
    mask[rows] = found.mask
    return Brain(mask=mask, vertices=found.vertices + np.array([rows.start, 0, 0]))


def _find(volume: NDArray[np.float32], spacing_mm: float, fraction: float) -> Brain | None:
    low, high = (float(value) for value in np.percentile(volume, (2, 98)))
    threshold = low + 0.1 * (high - low)
    above = volume > threshold
    if high <= low or above.sum() * spacing_mm**3 < _SMALLEST_HEAD_MM3:
        return None
    weights = np.where(above, np.clip(volume, None, high) - low, 0)
    centre = np.array(ndimage.center_of_mass(weights))
    radius = (3 * above.sum() / (4 * np.pi)) ** (1 / 3)
    distance = np.sqrt(sum((axis - at) ** 2 for axis, at in zip(np.indices(volume.shape), centre, strict=True)))
    inner = volume[(distance < radius) & above]
    if not inner.size:
        return None
    vertices = _grow(volume, centre, radius, (low, threshold, float(np.median(inner)), fraction), spacing_mm)
    mask = _fill(vertices, volume.shape)
    return Brain(mask=mask, vertices=vertices) if mask.any() else None


def _grow(
    volume: NDArray[np.float32],
    centre: NDArray[np.float64],
    radius: float,
    levels: tuple[float, float, float, float],
    spacing_mm: float,
) -> NDArray[np.float64]:
    """Vertices (voxels) of the balloon after its last step (Smith eq. 2 to 14)."""
    low, threshold, middle, fraction = levels
    unit, triangles = sphere(SUBDIVISIONS)
    around = _neighbours(SUBDIVISIONS)
    points = centre + unit * radius / 2
    depths = np.arange(0, SEARCH_MM / spacing_mm, 1.0)
    near = depths < NEAR_MM / spacing_mm
    curvature = (1 / ROUGH_MM + 1 / SMOOTH_MM) / 2 * spacing_mm
    slope = 6 / ((1 / ROUGH_MM - 1 / SMOOTH_MM) * spacing_mm)
    for _ in range(ITERATIONS):
        normals = _normals(points, triangles)
        pull = points[around].mean(axis=1) - points
        along = (pull * normals).sum(axis=1)
        tangential = pull - along[:, None] * normals
        length = np.linalg.norm(points[around] - points[:, None], axis=2).mean()
        bend = 2 * np.abs(along) / length**2  # inverse radius of curvature, 1/voxel
        smooth = (1 + np.tanh(slope * (bend - curvature))) / 2
        below = points[:, None] - depths[None, :, None] * normals[:, None]
        values = ndimage.map_coordinates(volume, below.reshape(-1, 3).T, order=0, mode="constant", cval=low)
        values = values.reshape(len(points), -1)
        darkest = np.clip(values.min(axis=1), low, middle)
        brightest = np.clip(values[:, near].max(axis=1), threshold, middle)
        border = (brightest - low) * fraction + low
        force = 2 * (darkest - border) / np.maximum(brightest - low, 1e-6)
        points = points + tangential / 2 + ((smooth * along) + STEP * force * length)[:, None] * normals
    return points


def _normals(points: NDArray[np.float64], triangles: NDArray[np.int64]) -> NDArray[np.float64]:
    """Outward unit normals of a closed surface."""
    a, b, c = (points[triangles[:, corner]] for corner in range(3))
    faces = np.cross(b - a, c - a)
    outward = np.sign((faces * ((a + b + c) / 3 - points.mean(axis=0))).sum(axis=1, keepdims=True))
    faces = faces * outward
    normals = np.zeros_like(points)
    for corner in range(3):
        np.add.at(normals, triangles[:, corner], faces)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    return normals


def _fill(points: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Voxels inside a star-shaped surface: by direction from its middle, nearer than the surface is there."""
    middle = points.mean(axis=0)
    from scipy.spatial import cKDTree

    rays = points - middle
    reach = np.linalg.norm(rays, axis=1)
    tree = cKDTree(rays / reach[:, None])
    grid = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1).reshape(-1, 3) - middle
    distance = np.linalg.norm(grid, axis=1)
    inside = np.zeros(len(grid), bool)
    candidates = np.flatnonzero(distance <= reach.max())
    directions = grid[candidates] / np.maximum(distance[candidates], 1e-9)[:, None]
    _, nearest = tree.query(directions, k=3)
    inside[candidates] = distance[candidates] <= reach[nearest].mean(axis=1)
    return inside.reshape(shape)
