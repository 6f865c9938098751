"""The gate on its own: any set of images against any train and holdout images, whoever's generator made them."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medgan.cohort import synthetic as made
from medgan.collection import durable
from medgan.errors import InvalidRequest
from medgan.privacy import attack, page
from medgan.privacy.evidence import RealImages
from medgan.privacy.policy import load as load_policy
from medgan.privacy.views import VIEW_PX, Images, to_view
from medgan.records import GateTest, Verdict, sha256_hex

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
    views = [load_views(path) for path in (candidate, train, holdout)]
    if min(map(len, views)) < limits.least_holdout_patients // 10 + 10:
        raise InvalidRequest(f"the smallest set holds {min(map(len, views))} images: too few for policy {limits.name}")
    order = np.random.Generator(np.random.Philox(key=[attack.SEED, 0x617564])).permutation(len(views[2]))
    halves = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    real = RealImages(
        train=views[1],
        holdout_1=views[2][halves[0]],
        holdout_2=views[2][halves[1]],
        train_patients=np.arange(len(views[1])).astype(object),
        holdout_1_patients=halves[0].astype(object),
        holdout_2_patients=halves[1].astype(object),
    )
    tests, report = attack.assess(views[0], real, limits)
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


def load_views(path: Path) -> Images:
    """Views (n, 32, 32) of every image below `path`, in name order."""
    if (path / made.IMAGES).is_dir():
        array = made.open_images(path / made.IMAGES)
        attributes: dict[str, Any] = dict(array.attrs.asdict())
        low, high = (float(value) for value in attributes.get("intensity_range", (0, 65535)))
        return _square(to_view(np.asarray(array[:], dtype=np.uint16), (low, high)))
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
    views = [view for view in map(_read_image, files) if view is not None]
    if not views:
        raise InvalidRequest("a path given holds no images.zarr and no PNG, JPEG, TIFF or BMP image")
    return np.stack(views)


def _square(views: Images) -> Images:
    if views.shape[1:] != (VIEW_PX, VIEW_PX):
        raise InvalidRequest(
            f"images must be square and at least {VIEW_PX} px, not {views.shape[1]} x {views.shape[2]}"
        )
    return views


def _read_image(path: Path) -> Images | None:
    """One grey view (32, 32) in [0, 1], or None for what is no image; nothing about the file is told."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height > _MOST_PIXELS:
                    return None
                pixels: npt.NDArray[Any] = np.asarray(image if image.mode.startswith("I") else image.convert("L"))
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError, Warning):
        return None
    full = 65535.0 if pixels.dtype != np.uint8 else 255.0
    grey = Image.fromarray(pixels.astype(np.float32) / np.float32(full))
    small = grey.resize((VIEW_PX, VIEW_PX), Image.Resampling.BOX)
    return np.clip(np.asarray(small, dtype=np.float32), 0, 1)
