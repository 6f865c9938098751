"""The gate on its own: any set of images against any train and holdout images, whoever's generator made them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log2
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from medgan.cohort import synthetic as made
from medgan.cohort.planes import FLAT
from medgan.collection import durable
from medgan.errors import InvalidRequest
from medgan.privacy import attack, page
from medgan.privacy.evidence import RealImages
from medgan.privacy.policy import load as load_policy
from medgan.privacy.views import VIEW_PX, Images, to_view
from medgan.records import GateTest, Verdict, sha256_hex

T = TypeVar("T")
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_MOST_PIXELS = 64_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The verdict with its tests; the whole report is written where it was asked for."""

    verdict: Verdict
    tests: tuple[GateTest, ...]
    not_tested: tuple[str, ...]


def audit(candidate: Path, train: Path, holdout: Path, *, policy: str, output: Path | None = None) -> Audit:
    """Attack the images of `candidate`; each path is a release, a cohort (`images.zarr` inside) or a folder of images.

    The holdout is cut into a calibration half and a control half. Every image counts as a patient of its own.

    Raises:
        InvalidRequest: a path without images, fewer than ten in a set, or no such policy.
    """
    limits = load_policy(policy)
    paths = (candidate, train, holdout)
    px = common_px(paths)
    views = [load_views(path, px) for path in paths]
    if min(map(len, views)) < limits.least_holdout_patients // 10 + 10:
        raise InvalidRequest(f"the smallest set holds {min(map(len, views))} images: too few for policy {limits.name}")
    order = np.random.Generator(np.random.Philox(key=[attack.SEED, 0x617564])).permutation(len(views[2]))
    halves = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    real = RealImages(
        train=views[1],
        holdout_1=views[2][halves[0]],
        holdout_2=views[2][halves[1]],
        train_patients=np.arange(len(views[1])).astype(object),
        # numbered on from train: a number that both had would be one patient with two images
        holdout_1_patients=(len(views[1]) + halves[0]).astype(object),
        holdout_2_patients=(len(views[1]) + halves[1]).astype(object),
    )
    tests, report = attack.assess(views[0], real, limits)
    report["counts"]["near copies"] = len(report.pop("copies"))
    counts = {"train images": len(views[1]), "train patients": len(views[1]), "holdout images": len(views[2])}
    not_tested = attack.not_tested(tests, counts)
    verdict = attack.decide(
        tests, limits, holdout_patients=min(map(len, halves)), not_applicable=frozenset({"G3", "G7"})
    )
    report |= {
        "policy": limits.model_dump(mode="json"),
        "counts": report["counts"] | counts,
        "not_tested": not_tested,
        "synthetic": "audit",
        "pixel_sha256": sha256_hex(np.round(views[0] * 65535).astype("<u2").tobytes()),
        "verdict": verdict.value,
    }
    if output is not None:
        text = json.dumps(attack.plain(report), sort_keys=True, indent=1, allow_nan=False)
        durable.write_bytes(output / attack.REPORT, text.encode())
        durable.write_bytes(output / attack.PAGE, page.render(json.loads(text)).encode())
    return Audit(verdict=verdict, tests=tests, not_tested=not_tested)


def common_px(paths: Sequence[Path]) -> int:
    """Side of the views that all sets can be compared at: 64, or 32, or the smallest image's where that is less."""
    least = min(map(_least_side, paths))
    return next((px for px in (VIEW_PX, 32) if least >= px), least)


def load_views(path: Path, px: int) -> Images:
    """Views (n, px, px) in [0, 1] of every image below `path`, in name order; what is no image is passed over."""
    if (path / made.IMAGES).is_dir():
        array = made.open_images(path / made.IMAGES)
        attributes: dict[str, Any] = dict(array.attrs.asdict())
        low, high = (float(value) for value in attributes.get("intensity_range", (0, 65535)))
        if array.ndim != FLAT:
            raise InvalidRequest("this compares flat images: volumes are judged where they are made, by the gate")
        if array.shape[1] != array.shape[2]:
            raise InvalidRequest(f"a cohort's images are square, not {array.shape[1]} x {array.shape[2]}")
        return to_view(np.asarray(array[:], dtype=np.uint16), (low, high), px)
    views = np.stack([view for view in (_grey(file, px) for file in _files(path)) if view is not None])
    scaled: Images = np.clip(views / _full_scale(float(views.max())), 0, 1).astype(np.float32)
    return scaled


def _least_side(path: Path) -> int:
    """Shorter side of the smallest image; `InvalidRequest` where there is none."""
    if (path / made.IMAGES).is_dir():
        return int(min(made.open_images(path / made.IMAGES).shape[1:]))
    sides = [min(size) for size in (_opened(file, lambda image: image.size) for file in _files(path)) if size]
    if not sides:
        raise InvalidRequest("a path given holds no images.zarr and no PNG, JPEG, TIFF or BMP image")
    return int(min(sides))


def _files(path: Path) -> list[Path]:
    """Files below `path`; not the masks that an export of a version puts beside its images."""
    found = path.rglob("*") if path.is_dir() else ()
    return sorted(file for file in found if file.is_file() and path / "masks" not in file.parents)


def _full_scale(largest: float) -> float:
    """White of a set whose brightest pixel is `largest`: 255, or for deeper ones the next 2^n - 1 (12 bits: 4095)."""
    return float(2 ** max(8, ceil(log2(largest + 1))) - 1) if largest > 1 else 1.0


def _grey(path: Path, px: int) -> Images | None:
    """One grey view (px, px) in the file's own scale, averaged over the pixels it covers; colours by luminance."""
    from PIL import Image

    def pixels(image: Any) -> npt.NDArray[Any]:
        deep = image.mode == "F" or image.mode.startswith("I")
        whole = Image.fromarray(np.asarray(image if deep else image.convert("L")).astype(np.float32))
        return np.asarray(whole.resize((px, px), Image.Resampling.BOX), dtype=np.float32)

    return _opened(path, pixels)


def _opened(path: Path, use: Callable[[Any], T]) -> T | None:
    """What `use` makes of the image at `path`, or None for what is no image; nothing about the file is told."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(path, formats=_FORMATS) as image:
                return use(image) if image.width * image.height <= _MOST_PIXELS else None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning):
        return None
