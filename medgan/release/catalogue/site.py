"""Pages from facts: one a version (immutable, in its manifest) and one for the registry (rewritten)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from medgan.client import disk
from medgan.records import Index, ManifestFile
from medgan.release import facts as fact_module
from medgan.release.catalogue import preview
from medgan.release.datasheet import licence_link
from medgan.release.evidence import Evidence
from medgan.release.facts import Facts

STATUS_SCRIPT = "status.js"
HISTOGRAM_BINS = 48
_MEGABYTE = 1_000_000


def write_version(staging: Path, facts: Facts, evidence: Evidence, files: tuple[ManifestFile, ...]) -> None:
    """Write `index.html` and `preview/` of one version."""
    sheets = preview.sheets(evidence.images, evidence.labels["class"].astype(str).tolist(), facts.attributes)
    (staging / "preview").mkdir()
    for sheet in sheets:
        (staging / sheet.file).write_bytes(sheet.body)
    (staging / "preview" / "cover.webp").write_bytes(preview.cover(evidence.images, facts.attributes))
    page = (
        _environment()
        .get_template("version.html.j2")
        .render(
            facts=facts,
            sheets=sheets,
            columns=preview.COLUMNS,
            files=files,
            licence_name=licence_link(facts.request.licence)[0],
            licence_link=licence_link(facts.request.licence)[1],
            histogram=histogram(evidence.images, facts.attributes),
            total_bytes=sum(file.size for file in files),
        )
    )
    (staging / "index.html").write_text(page)


def write_registry(registry: Path, index: Index) -> None:
    """Write the registry's `index.html` and the small script that tells version pages their current status."""
    page = _environment().get_template("registry.html.j2").render(index=index)
    disk.write_file(registry / "index.html", page.encode())
    disk.write_file(registry / STATUS_SCRIPT, _status_script(index))


def histogram(images_NHW: npt.NDArray[np.uint16], attributes: dict[str, Any]) -> list[float]:
    """Share of pixels in each of 48 equal bins of `intensity_range`, values outside at its ends."""
    low, high = attributes.get("intensity_range", (0, 65535))
    clipped = np.clip(images_NHW, low, high)
    counts, _ = np.histogram(clipped, bins=HISTOGRAM_BINS, range=(low, max(high, low + 1)))
    return [float(share) for share in counts / max(1, images_NHW.size)]


def size(count: int) -> str:
    """Bytes in human units."""
    return f"{count / 1e6:.1f} MB" if count >= _MEGABYTE else f"{count / 1e3:.1f} kB"


def _status_script(index: Index) -> bytes:
    """`window.medganStatus = {name: {version: {status, reason}, latest}}`; a script, so that it works from a file."""
    table = {
        entry.name: {
            "latest": entry.channels.get("latest"),
            "versions": {held.version: {"status": held.status, "reason": held.reason} for held in entry.versions},
        }
        for entry in index.datasets
    }
    text = json.dumps(table, sort_keys=True).replace("<", "\\u003c")
    return f"window.medganStatus = {text};\n".encode()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medgan.release.catalogue", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = fact_module.number
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.filters["size"] = size
    environment.filters["percent"] = lambda value: f"{value:.1%}"
    return environment
