"""Pages from facts: one a version (immutable, in its manifest) and one for the registry (rewritten)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from medgan.client.diff import Difference
from medgan.cohort import planes
from medgan.cohort.outlines import COLOURS
from medgan.quality.report import title_of
from medgan.records import Index, ManifestFile
from medgan.release import facts as fact_module
from medgan.release.catalogue import preview
from medgan.release.catalogue.chart import intensity_chart
from medgan.release.datasheet import licence_link
from medgan.release.evidence import Evidence
from medgan.release.facts import DESCRIPTIVE, Facts

STATUS_SCRIPT = "status.js"
SCRIPTS = ("viewer.js", "zarrita.js", "LICENSES-zarrita.txt")
_MEGABYTE = 1_000_000


def write_version(
    staging: Path,
    facts: Facts,
    evidence: Evidence,
    files: tuple[ManifestFile, ...],
    *,
    difference: Difference | None = None,
) -> None:
    """Write `index.html`, its scripts and `preview/` of one version; `difference` from the version before it."""
    shown = planes.middle(evidence.images)
    sheets = preview.sheets(shown, evidence.labels["class"].astype(str).tolist(), facts.attributes)
    (staging / "preview").mkdir()
    for sheet in sheets:
        (staging / sheet.file).write_bytes(sheet.body)
    (staging / "preview" / "cover.webp").write_bytes(preview.cover(shown, facts.attributes))
    if evidence.masks is not None:
        picture = preview.outlines(shown, evidence.masks, facts.attributes)
        (staging / "preview" / "structures.webp").write_bytes(picture)
    for script in SCRIPTS:
        (staging / script).write_bytes(_asset(script))
    rows = [row for sheet in sheets for row in sheet.rows]
    said = {
        "facts": facts,
        "sheets": sheets,
        "columns": preview.COLUMNS,
        "files": files,
        "filters": _filters(evidence, rows),
        "licence_name": licence_link(facts.request.licence)[0],
        "licence_link": licence_link(facts.request.licence)[1],
        "chart": intensity_chart(evidence.images, facts.attributes, evidence.reports["quality.json"]),
        "page_data": _script_data(_page_data(facts, evidence, rows)),
        "difference": difference,
        "colours": [COLOURS[number % len(COLOURS)] for number in range(len(facts.structures))],
    }
    template = _environment().get_template("version.html.j2")
    others = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    itself = len(template.render(said, total_bytes=others).encode())  # the page is a part of what it says the size of
    (staging / "index.html").write_bytes(template.render(said, total_bytes=others + itself).encode())


def registry_pages(index: Index, standing: Mapping[str, Collection[str]]) -> dict[str, bytes]:
    """The registry's `index.html` and the small script that tells version pages their current status.

    `standing` are the versions of each data set whose files are still there.
    """
    page = _environment().get_template("registry.html.j2").render(index=index, standing=standing)
    return {"index.html": page.encode(), STATUS_SCRIPT: _status_script(index)}


def size(count: int) -> str:
    """Bytes in human units."""
    return f"{count / 1e6:.1f} MB" if count >= _MEGABYTE else f"{count / 1e3:.0f} kB"


def change_title(name: str) -> str:
    """`quality: kid` and `privacy: nearest` of a difference, for people."""
    kind, _, measure = name.partition(": ")
    return f"{kind.capitalize()}: {title_of(measure)}"


def _filters(evidence: Evidence, rows: list[int]) -> dict[str, list[str]]:
    """Label columns that tell the shown images apart, with their values."""
    shown = evidence.labels.iloc[rows]
    values = {name: sorted(set(shown[name].astype(str))) for name in DESCRIPTIVE if name in shown.columns}
    return {name: found for name, found in values.items() if len(found) > 1}


def _page_data(facts: Facts, evidence: Evidence, rows: list[int]) -> dict[str, Any]:
    """What the page's script needs: shape, intensity mapping, labels of the shown images by row."""
    columns = [name for name in DESCRIPTIVE if name in evidence.labels.columns]
    table = evidence.labels[columns].astype(str)
    return {
        "size": list(facts.shape[-2:]),
        "range": list(facts.attributes.get("intensity_range", (0, 65535))),
        "slope": facts.attributes.get("rescale_slope", 1),
        "intercept": facts.attributes.get("rescale_intercept", 0),
        "labels": {str(row): table.iloc[row].to_dict() for row in rows},
    }


def _script_data(value: dict[str, Any]) -> Markup:
    """JSON that may stand inside a script element."""
    return Markup(json.dumps(value, sort_keys=True).replace("<", "\\u003c"))  # noqa: S704 - no < is left in it


def _status_script(index: Index) -> bytes:
    """`window.medganStatus = {name: {versions, latest, channels}}`; a script, so that it works from a file too."""
    table = {
        entry.name: {
            "latest": entry.channels.get("latest"),
            "channels": entry.channels,
            "versions": {held.version: {"status": held.status, "reason": held.reason} for held in entry.versions},
        }
        for entry in index.datasets
    }
    return f"window.medganStatus = {_script_data(table)};\n".encode()


def _asset(name: str) -> bytes:
    return (resources.files("medgan.release.catalogue") / name).read_bytes()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medgan.release.catalogue", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["style"] = Markup(_asset("style.css").decode())  # noqa: S704 - our own file
    environment.filters["number"] = fact_module.number
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.filters["size"] = size
    environment.filters["measure"] = title_of
    environment.filters["change"] = change_title
    return environment
