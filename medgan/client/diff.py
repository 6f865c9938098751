"""What changed between two versions of a data set, in numbers and in words."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from medgan.client import index as indexes
from medgan.client import pull as pulls
from medgan.client import registry as registries
from medgan.client.report import info, signed_json, structures_of
from medgan.errors import InvalidRequest
from medgan.records import Manifest


class Told(NamedTuple):
    """What a version tells beside its manifest: numbers of its reports, and the structures that its masks outline."""

    numbers: Mapping[str, float] = {}
    structures: tuple[str, ...] = ()


class Shards(BaseModel):
    """Shards by their decoded bytes."""

    model_config = ConfigDict(frozen=True)

    same: int
    changed: int
    added: int
    removed: int


class Difference(BaseModel):
    """Two versions beside each other; pairs are (first, second), None where a version has no such value."""

    model_config = ConfigDict(frozen=True)

    first: str
    second: str
    images: tuple[int, int]
    bytes: tuple[int, int]
    shards: Shards
    class_counts: dict[str, tuple[int, int]]
    measures: dict[str, tuple[float | None, float | None]] = Field(description="Quality and privacy numbers.")
    changed: dict[str, tuple[str | None, str | None]] = Field(
        description="Title, licence, policy, structures of masks where they differ."
    )

    def lines(self) -> Iterator[str]:
        """The difference in words, a line a fact."""
        yield f"{self.first} -> {self.second}"
        yield f"images: {self.images[0]:,} -> {self.images[1]:,}"
        yield f"size: {self.bytes[0] / 1e6:.1f} -> {self.bytes[1] / 1e6:.1f} MB"
        s = self.shards
        yield f"shards: {s.same} the same, {s.changed} changed, {s.added} added, {s.removed} removed"
        for name, (before, after) in self.class_counts.items():
            yield f"class {name}: {before:,} -> {after:,} ({after - before:+,})"
        for name, (old, new) in self.measures.items():
            yield f"{name}: {_shown(old)} -> {_shown(new)}"
        for name, (was, now) in self.changed.items():
            yield f"{name}: {was} -> {now}"


def diff(first: str, second: str, *, registry: str | None = None, trust: Path | str | None = None) -> Difference:
    """Compare two published versions by their signed manifests, reports and descriptions; no image is fetched."""
    specs = [indexes.parse_spec(spec)[0] for spec in (first, second)]
    if specs[0] != specs[1]:
        raise InvalidRequest("two versions of one data set are compared: name it twice")
    link = pulls.connect(registry, trust=trust)
    old, new = (info(spec, registry=link.source.address) for spec in (first, second))
    return compare(old, new, told(link.source, old), told(link.source, new))


def compare(old: Manifest, new: Manifest, old_told: Told, new_told: Told) -> Difference:
    """The difference of two manifests and of what is told beside them."""
    numbers = old_told.numbers, new_told.numbers
    shards = [{f.path: f.pixel_sha256 for f in manifest.files if f.pixel_sha256} for manifest in (old, new)]
    both = shards[0].keys() & shards[1].keys()
    same = sum(shards[0][path] == shards[1][path] for path in both)
    classes = sorted({*old.class_counts, *new.class_counts})
    said = {name: (_said(old, name), _said(new, name)) for name in ("title", "licence", "attribution", "policy")}
    said["structures"] = _joined(old_told.structures), _joined(new_told.structures)
    return Difference(
        first=f"{old.name}@{old.version}",
        second=f"{new.name}@{new.version}",
        images=(old.images, new.images),
        bytes=(sum(f.size for f in old.files), sum(f.size for f in new.files)),
        shards=Shards(
            same=same,
            changed=len(both) - same,
            added=len(shards[1].keys() - both),
            removed=len(shards[0].keys() - both),
        ),
        class_counts={name: (old.class_counts.get(name, 0), new.class_counts.get(name, 0)) for name in classes},
        measures={name: (numbers[0].get(name), numbers[1].get(name)) for name in sorted({*numbers[0], *numbers[1]})},
        changed={name: pair for name, pair in said.items() if pair[0] != pair[1]},
    )


def told(source: registries.Source, manifest: Manifest) -> Told:
    """Headline numbers of a version's two reports and its structures, each file checked against the manifest."""
    quality, privacy = (signed_json(source, manifest, f"reports/{kind}.json") for kind in ("quality", "privacy"))
    return Told(numbers(quality, privacy), structures_of(source, manifest))


def numbers(quality: Any, privacy: Any) -> dict[str, float]:
    """`quality: NAME` and `privacy: NAME` of the measures and tests that two reports list; others are left out."""
    listed = (("quality", quality, "measures", "name"), ("privacy", privacy, "tests", "test"))
    return {
        f"{kind}: {item[key]}": float(item["value"])
        for kind, report, field, key in listed
        for item in (report.get(field, ()) if isinstance(report, dict) else ())
        if isinstance(item, dict) and key in item and _is_number(item.get("value"))
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _joined(structures: tuple[str, ...]) -> str | None:
    return ", ".join(structures) or None


def _said(manifest: Manifest, name: str) -> str | None:
    if name == "policy":
        return manifest.evidence.policy if manifest.evidence is not None else None
    return str(getattr(manifest, name))


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
