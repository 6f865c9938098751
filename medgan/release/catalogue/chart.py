"""The intensity histogram as SVG paths: synthetic pixels, and the real ones that the quality report counted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medgan.quality.report import SMALL_CELL

BINS = 48
WIDTH, BASE, TOP = 480.0, 176.0, 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """SVG path data in a 480 x 200 view box; `real` is empty where the report holds no such curve."""

    synthetic: str
    real: str
    low: float
    high: float
    units: str


def intensity_chart(images_NHW: npt.NDArray[np.uint16], attributes: dict[str, Any], quality_json: bytes) -> Chart:
    """The curves of `quality.json` (`curves.intensity_share`) where it has them, else our own count of the images."""
    units = str(attributes.get("units", ""))
    report = json.loads(quality_json)
    curves = report.get("curves", {}).get("intensity_share") if isinstance(report, dict) else None
    if curves and {"x", "synthetic", "train"} <= set(curves):
        pixels = images_NHW[0].size * int(report.get("counts", {}).get("train", 0))
        real = [share if share * pixels >= SMALL_CELL else 0.0 for share in curves["train"]]
        peak = max(*curves["synthetic"], *real, 1e-12)
        low, high = curves["x"][0], curves["x"][-1]
        return Chart(
            synthetic=area(curves["synthetic"], peak),
            real=line(real, peak) if any(real) else "",
            low=low,
            high=high,
            units=units,
        )
    slope, intercept = float(attributes.get("rescale_slope", 1)), float(attributes.get("rescale_intercept", 0))
    low, high = map(float, attributes.get("intensity_range", (0, 65535)))
    counts, _ = np.histogram(np.clip(images_NHW, low, high), bins=BINS, range=(low, max(high, low + 1)))
    shares = [float(share) for share in counts / max(1, images_NHW.size)]
    return Chart(
        synthetic=area(shares, max(shares)),
        real="",
        low=low * slope + intercept,
        high=high * slope + intercept,
        units=units,
    )


def area(shares: list[float], peak: float) -> str:
    """A stepped closed shape, one step a bin."""
    step = WIDTH / len(shares)
    corners = "".join(f"V{_height(share, peak):.1f}H{(number + 1) * step:.1f}" for number, share in enumerate(shares))
    return f"M0 {BASE:.0f}{corners}V{BASE:.0f}Z"


def line(shares: list[float], peak: float) -> str:
    """A line through the middles of the bins; bins that are hidden break it."""
    step, path, drawing = WIDTH / len(shares), [], False
    for number, share in enumerate(shares):
        if share > 0:
            path.append(f"{'L' if drawing else 'M'}{(number + 0.5) * step:.1f} {_height(share, peak):.1f}")
        drawing = share > 0
    return "".join(path)


def _height(share: float, peak: float) -> float:
    return BASE - (BASE - TOP) * share / peak
