"""Clean Recognizable Visual Features (PS3.15 E.3.2): the face of a head volume is cut away, the brain never touched.

The brain is found (`brain`), its convex hull put in the head's own axes, and everything in front of and below a plane
at 45 degrees that touches the hull from there is set to the background: eyes, nose, cheeks, mouth and chin
(after Schimke and Hale, Quickshear defacing for neuroimages, HealthSec 2011, with a plane in three dimensions).
The plane is known in patient coordinates, so it cuts every series that shares the frame of reference, a scout as
well. Where no brain is found that looks like one, nothing is cut and the volume is refused as FACE.
"""

from __future__ import annotations

import functools
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from medgan.archive import instance, pixels, references, series
from medgan.deid import brain
from medgan.errors import BadInstance, MedganError
from medgan.records import canonical_json, sha256_hex

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset

    from medgan.archive.series import FrameGeometry

OPTION = "clean-recognizable-visual-features"
MODALITIES = frozenset(("CT", "MR", "SEG"))
"""A mask of a head has the head's outline: it is cut like the images beside it."""
_CT_CLASSES = frozenset(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "2.1", "2.2"))
_MR_CLASSES = frozenset(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("4", "4.1", "4.3", "4.4"))
# Body parts (PS3.16 Annex L) that hold no face. An instance is left alone only when it names one of them and no word
# of its descriptions speaks of a head: what says nothing is taken for a head.
ELSEWHERE = re.compile(
    r"(?:L|T|LS|TL|S)SPINE|ABDOMEN|ABDOMENPELVIS|ADRENAL|ANKLE|AORTA|ARM|BLADDER|BREAST|CALF|CHEST|CHESTABDOMEN|CLAVICLE|"
    r"COCCYX|COLON|ELBOW|EXTREMITY|FEMUR|FINGER|FOOT|FOREARM|HAND|HEART|HIP|HUMERUS|KIDNEY|KNEE|LEG|LIVER|LUNG|PANCREAS|"
    r"PELVIS|PROSTATE|RIB|SACRUM|SCAPULA|SHOULDER|SIJOINT|SPLEEN|STERNUM|STOMACH|THIGH|THUMB|TOE|THORAX|UTERUS|WRIST"
)
HEAD_WORDS = re.compile(
    r"head|brain|skull|cran|fac(?:e|ial)|neck|cerv|c-?spine|orbit|eye|sinus|nas[ae]l|nose|pituit|sella|iac\b|temporal|"
    r"mandib|maxill|dental|tmj|neuro|cereb|stroke|whole|kopf|sch(?:ae|\u00e4)del|hirn|hals|gesicht|t[e\u00ea]te|cabe[zc\u00e7]a|"
    r"testa|encef|enc\u00e9ph|mprage|flair|fmri|bold|stealth",
    re.IGNORECASE,
)
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_WORDY = ("StudyDescription", "SeriesDescription", "ProtocolName", "RequestedProcedureDescription", "BodyPartExamined")
MIN_SLICES, MIN_TRAVEL_MM = 8, 60.0  # fewer or less is no volume that a brain could be found in
TRIES = 8  # volumes of one frame of reference that are looked at before it is given up

GRID_MM = 3.0
MARGIN_MM = 6.0  # between hull and plane: two voxels of the grid, and what a head moves between two series
ANGLE_DEGREES = 45.0  # of the plane's normal below the horizontal: between orbits and temporal poles it finds the gap
FRACTIONS = (0.6, 0.5, 0.7, 0.4)  # in the order that fitted the one real T1 head (docs/adr/0046)
OPENING_VOXELS = 3  # what is thinner than 2 cm is no part of a brain: the balloon runs out along nerves and vessels
# What a brain's mask measures, infant to adult, with the stem and a rim of fluid: outside of that it is something else.
VOLUME_ML, MIN_FILL = (450.0, 2300.0), 0.8
LEFT_RIGHT_MM, FRONT_BACK_MM, UP_DOWN_MM = (90.0, 175.0), (110.0, 215.0), (55.0, 180.0)
WHOLE_MM = 85.0  # a slab that shows less of the brain cuts only itself: elsewhere its plane could meet brain
MAX_END_SHARE = 0.35  # of the largest cross-section: a brain that ends so wide at the volume's end goes on beyond it
MAX_TILT_DEGREES = 40.0
MIN_SOLID = 0.7
_ML_PER_VOXEL = GRID_MM**3 / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shear:
    """Half space that goes, in LPS mm: p goes where `normal` . p > `offset` and `forward` . p > `behind`."""

    normal: tuple[float, float, float]
    offset: float
    forward: tuple[float, float, float]
    behind: float
    whole: bool = True
    """Whether the brain was seen from top to bottom, so that the plane holds for other series as well."""

    def removes(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(..., 3) LPS mm -> (...) whether a point goes."""
        in_front: NDArray[np.bool_] = points @ np.array(self.normal) > self.offset
        beyond: NDArray[np.bool_] = points @ np.array(self.forward) > self.behind
        return in_front & beyond


def find(volume: NDArray[Any], affine: NDArray[np.float64], *, hounsfield: bool) -> Shear:
    """The cut for a head `volume`, (D, H, W) of physical values: HU for CT.

    `affine` maps its voxels (column, row, slice) to LPS mm.

    Raises `BadInstance` FACE where no brain is found that has the size, shape and place of one.
    """
    grid, origin = _upright(volume, affine)
    shown = brain.soft_tissue(grid) if hounsfield else grid
    for fraction in FRACTIONS:
        found = brain.find(shown, GRID_MM, fraction)
        if found is not None:
            cut = _cut(found, shown, origin)
            if cut is not None:
                return cut
    raise BadInstance("FACE", "no brain was found in a head volume, so its face cannot be cut away safely")


def _upright(volume: NDArray[Any], affine: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """`volume` on an isotropic grid along the patient's axes, (Z, Y, X) with z to the head, and LPS of its corner."""
    depth, rows, columns = volume.shape
    corners = np.array(
        [[c, r, s, 1.0] for c in (0, columns - 1) for r in (0, rows - 1) for s in (0, max(depth - 1, 1))]
    )
    reach = corners @ affine[:3].T
    low, high = reach.min(axis=0), reach.max(axis=0)
    sizes = np.maximum(np.ceil((high - low) / GRID_MM).astype(int) + 1, 2)
    if (sizes > 200).any():  # noqa: PLR2004 - 600 mm: no head, and no reason to fill the memory
        raise BadInstance("FACE", "the volume is larger than a head: somebody has to look at it")
    zyx = np.stack(np.meshgrid(*(np.arange(size) for size in sizes[::-1]), indexing="ij"), axis=-1)
    points = zyx[..., ::-1] * GRID_MM + low
    inverse = np.linalg.inv(affine)
    voxels = points @ inverse[:3, :3].T + inverse[:3, 3]
    steps = np.linalg.norm(affine[:3, :3], axis=0)[::-1]
    smooth = ndimage.uniform_filter(np.asarray(volume, np.float32), [max(1, int(GRID_MM / step)) for step in steps])
    grid = ndimage.map_coordinates(smooth, voxels[..., ::-1].reshape(-1, 3).T, order=1, cval=float(smooth.min()))
    return grid.reshape(sizes[::-1]).astype(np.float32), low


def _cut(found: brain.Brain, grid: NDArray[np.float32], origin: NDArray[np.float64]) -> Shear | None:
    """The plane in front of a mask; `None` where the mask is no brain's."""
    mask = _without_strands(found.mask)
    voxels = np.argwhere(mask)
    if len(voxels) < VOLUME_ML[0] / _ML_PER_VOXEL:
        return None
    points = voxels[:, ::-1] * GRID_MM + origin
    axes = _head_axes(points)
    if axes is None:
        return None
    try:
        hull = ConvexHull(points)
    except QhullError:
        return None
    volume_ml = len(points) * _ML_PER_VOXEL
    extents = [float(np.ptp(np.percentile(points @ axis, (0.5, 99.5)))) for axis in axes]
    ranges = (LEFT_RIGHT_MM, FRONT_BACK_MM, UP_DOWN_MM)
    values = grid[mask]
    solid = float((values > 0.3 * np.median(values)).mean())
    sound = (
        VOLUME_ML[0] <= volume_ml <= VOLUME_ML[1]
        and volume_ml * 1000 / hull.volume >= MIN_FILL
        and all(low <= extent <= high for extent, (low, high) in zip(extents, ranges, strict=True))
        and solid >= MIN_SOLID
    )
    if not sound:
        return None
    whole = extents[2] >= WHOLE_MM and not _cut_off(mask)
    _, forward, up = axes
    angle = np.radians(ANGLE_DEGREES)
    normal = np.cos(angle) * forward - np.sin(angle) * up
    corners = points[hull.vertices]
    return Shear(
        normal=_triple(normal),
        offset=float((corners @ normal).max()) + (MARGIN_MM if whole else 2 * MARGIN_MM),
        forward=_triple(forward),
        behind=float((points @ forward).mean()),
        whole=whole,
    )


def _cut_off(mask: NDArray[np.bool_]) -> bool:
    """Whether the brain goes on above or below the volume."""
    areas = mask.sum(axis=(1, 2))
    return bool(max(areas[0], areas[-1]) > MAX_END_SHARE * areas.max())


def _without_strands(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Morphological opening by a ball; beyond the volume's ends the mask goes on as it ends there."""
    reach = OPENING_VOXELS
    ball = (np.indices((2 * reach + 1,) * 3) - reach) ** 2
    opened = ndimage.binary_opening(np.pad(mask, reach, mode="edge"), ball.sum(axis=0) <= reach**2)
    inner: NDArray[np.bool_] = opened[reach:-reach, reach:-reach, reach:-reach]
    return inner


def _head_axes(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...] | None:
    """Unit vectors to the left, to the front and up, from a brain's shape; `None` where it lies no way a head does."""
    _, vectors = np.linalg.eigh(np.cov(points.T))
    front = vectors[:, 2]  # the longest axis of a brain runs from front to back
    front = front if front[1] < 0 else -front  # LPS: y grows to the back
    left = np.array([1.0, 0.0, 0.0])
    left = left - (left @ front) * front
    left /= np.linalg.norm(left)
    up = np.cross(front, left) * -1
    up = up if up[2] > 0 else -up
    if np.degrees(np.arccos(min(1.0, float(-front[1])))) > MAX_TILT_DEGREES:
        return None
    return left, front, up


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _modalities(dataset: Dataset) -> set[str]:
    """What an instance says it is by its Modality, and what its SOP class says: a header may forget the first."""
    said = dataset.get("Modality") or ""
    named = {said} if isinstance(said, str) else {str(one) for one in said}
    kind = str(dataset.get("SOPClassUID") or "")
    of_class = {references.SEGMENTATION: "SEG"} | dict.fromkeys(_CT_CLASSES, "CT") | dict.fromkeys(_MR_CLASSES, "MR")
    return named | {of_class[kind]} if kind in of_class else named


def concerns(dataset: Dataset) -> bool:
    """Whether an instance may show a face: CT, MR or a mask, unless it says that it is of another body part."""
    if not _modalities(dataset) & MODALITIES or not any(keyword in dataset for keyword in _PIXELS):
        return False
    part = re.sub(r"[^A-Z]", "", str(dataset.get("BodyPartExamined") or "").upper())
    words = " ".join(str(dataset.get(keyword) or "") for keyword in _WORDY)
    return not ELSEWHERE.fullmatch(part) or HEAD_WORDS.search(words) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What planning remembers of one instance."""

    place: int
    series: str
    reference: str
    hounsfield: bool
    geometry: tuple[FrameGeometry, ...]
    grey: bool = True
    """A colour map or a mask of a head is cut like the others, but no brain is looked for in it."""


def plan(instances: Iterable[Callable[[], bytes]]) -> dict[str, Shear]:
    """The cut for each series (by SeriesInstanceUID) of `instances`, which are loaded one at a time, twice at most.

    A series without a cut shows no face, or is refused when it comes to be cleaned: no brain was found in it, nor in
    another series of its frame of reference. What cannot be read is left to the de-identification, which says why.
    """
    loaders = list(instances)
    groups: dict[str, list[_Seen]] = defaultdict(list)
    for place, load in enumerate(loaders):
        seen = _look(place, load)
        if seen is not None:
            groups[seen.reference].append(seen)
    cuts: dict[str, Shear] = {}
    for group in groups.values():
        cuts |= _cuts(group, loaders)
    return cuts


def _look(place: int, load: Callable[[], bytes]) -> _Seen | None:
    try:
        dataset = instance.parse(load())
        if not concerns(dataset):
            return None
        geometry = _tiles(dataset)[1]
        name = str(dataset.SeriesInstanceUID)
    except BadInstance:
        return None
    except MedganError:
        raise
    except Exception:  # noqa: BLE001 - a hostile header may raise anything; cleaning refuses the instance by itself
        return None
    return _Seen(
        place=place,
        series=name,
        reference=str(dataset.get("FrameOfReferenceUID") or name),
        hounsfield="CT" in _modalities(dataset),
        geometry=geometry,
        grey=dataset.get("SamplesPerPixel", 1) == 1 and "SEG" not in _modalities(dataset),
    )


def _cuts(group: list[_Seen], loaders: list[Callable[[], bytes]]) -> dict[str, Shear]:
    """Cuts of the series of one frame of reference: of the volume that shows a whole brain, else each its own."""
    found: dict[str, Shear] = {}
    for name, frames, stack in _candidates(group)[:TRIES]:
        try:
            cut = find(_volume(frames, loaders), stack.affine, hounsfield=frames[0][0].hounsfield)
        except BadInstance:
            cut = None
        except MedganError:
            raise
        except Exception:  # noqa: BLE001 - slices of two sizes, steps of 1e-200: one series must not stop the others
            cut = None
        if cut is None:
            continue
        if cut.whole:
            return dict.fromkeys((seen.series for seen in group), cut)
        found[name] = cut
    return found


def _candidates(group: list[_Seen]) -> list[tuple[str, list[tuple[_Seen, int]], series.Volume]]:
    """The first volume of each series that could hold a brain, what covers most first; repetitions show the same."""
    found = []
    for name in sorted({seen.series for seen in group}):
        frames = [(one, at) for one in group if one.series == name and one.grey for at in range(len(one.geometry))]
        for stack in _stacks([seen.geometry[at] for seen, at in frames])[:1]:
            travel_mm = stack.spacing_mm[0] * (len(stack.order) - 1)
            if len(stack.order) >= MIN_SLICES and travel_mm >= MIN_TRAVEL_MM:
                found.append((travel_mm, name, [frames[index] for index in stack.order], stack))
    found.sort(key=lambda candidate: (-candidate[0], candidate[1]))
    return [(name, frames, stack) for _, name, frames, stack in found]


def _stacks(frames: list[FrameGeometry]) -> tuple[series.Volume, ...]:
    try:
        return series.volumes(frames)
    except (ArithmeticError, ValueError):  # positions that no patient has
        return ()


def _volume(frames: list[tuple[_Seen, int]], loaders: list[Callable[[], bytes]]) -> NDArray[np.float32]:
    """(D, H, W) physical values of frames in their order."""
    wanted: dict[int, list[int]] = defaultdict(list)
    for seen, at in frames:
        wanted[seen.place].append(at)
    slices: dict[tuple[int, int], NDArray[np.float32]] = {}
    for place, ats in wanted.items():
        dataset = instance.parse(loaders[place]())
        image = pixels.decode(dataset)
        split = series.unmosaic(dataset, image.frames)
        stored = image.frames if split is None else split[0]
        for at in ats:
            slices[place, at] = stored[at].astype(np.float32) * image.rescale_slope + image.rescale_intercept
    return np.stack([slices[seen.place, at] for seen, at in frames])


def _tiles(dataset: Dataset) -> tuple[NDArray[np.int64] | None, tuple[FrameGeometry, ...]]:
    """Geometry of each frame; for a mosaic also (N, h, w), where in the image each voxel of each tile lies."""
    if "MOSAIC" in [str(value) for value in dataset.get("ImageType", None) or ()]:
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        split = series.unmosaic(dataset, np.arange(rows * columns).reshape(1, rows, columns))
        if split is not None:
            return split
    return None, series.geometry(dataset)


def clean(data: bytes, source: Dataset, shear: Shear | None) -> bytes:
    """`data`, a de-identified Part 10 file of `source`, with the face at the background; `data` where there is none.

    Raises `BadInstance` FACE where a face may be seen and no cut is known: the series holds no volume with a brain.
    """
    from pydicom import dcmread

    from medgan.deid import burned_in

    if not concerns(source):
        return data
    where, geometry = _tiles(source)
    mask = "SEG" in _modalities(source)
    if shear is None and len(geometry) >= MIN_SLICES and not mask:
        alone = _Seen(place=0, series="", reference="", hounsfield="CT" in _modalities(source), geometry=geometry)
        shear = _cuts([alone], [functools.partial(_written, source)]).get("")
    dataset = dcmread(io.BytesIO(data))
    decoded = pixels.decode(dataset)
    if shear is None or not geometry or (where is None and len(geometry) != len(decoded.frames)):
        raise BadInstance("FACE", "it may show a face, and no brain was found in its series to cut it away safely")
    gone = np.zeros(decoded.frames.shape[:3], bool)
    for number, frame in enumerate(geometry):
        size = gone.shape[1:] if where is None else where.shape[1:]
        removed = shear.removes(_points(frame, size))
        if where is None:
            gone[number] = removed
        else:
            gone.reshape(-1)[where[number][removed]] = True
    dataset.RecognizableVisualFeatures = "NO"
    values = np.array(decoded.frames)
    lowest = 0 if mask else values.min()
    values[gone] = values.max() if decoded.photometric == "MONOCHROME1" else lowest
    return burned_in.rewrite(dataset, decoded, values)


def _written(source: Dataset) -> bytes:
    out = io.BytesIO()
    source.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _points(frame: FrameGeometry, size: tuple[int, ...]) -> NDArray[np.float64]:
    """LPS mm of the voxels of one frame, (h, w, 3) (PS3.3 C.7.6.2.1.1)."""
    rows, columns = np.arange(size[0])[:, None, None], np.arange(size[1])[None, :, None]
    along_row = np.array(frame.row_direction) * frame.spacing_mm[1]
    along_column = np.array(frame.column_direction) * frame.spacing_mm[0]
    points: NDArray[np.float64] = np.array(frame.position) + columns * along_row + rows * along_column
    return points


def digest(cuts: Mapping[str, Shear]) -> str:
    """Hex SHA-256 of cuts: what they decide is another content."""
    return sha256_hex(canonical_json({name: asdict(cut) for name, cut in cuts.items()}))


def by_key(cuts: Mapping[str, Shear], key: Callable[[str], str]) -> dict[str, Shear]:
    """Cuts by pseudonym of the series, so that they may travel."""
    return {key(name): cut for name, cut in cuts.items()}
