"""Everything a version consists of, written to a staging folder and listed with its digests."""

from __future__ import annotations

import json
from pathlib import Path

from medgan.client import diff
from medgan.client.verify import digest_file
from medgan.records import Manifest, ManifestFile, ReleaseEvidence, ReleaseRequest, canonical_json
from medgan.release import catalogue, croissant, datasheet, images, provenance
from medgan.release.evidence import Evidence
from medgan.release.facts import Facts

IMAGES = "images.zarr"


def write_version(
    staging: Path,
    evidence: Evidence,
    request: ReleaseRequest,
    *,
    number: str,
    previous: Manifest | None,
    before: diff.Told | None = None,
) -> Manifest:
    """Write all files of a version but manifest and signature; gives the manifest that lists them.

    `before` is what `previous` tells beside its manifest.
    """
    pixel_sha256 = images.write(staging / IMAGES, evidence.arrays)
    (staging / "labels.parquet").write_bytes(evidence.labels_bytes)
    (staging / "reports").mkdir()
    for name, body in evidence.reports.items():
        (staging / "reports" / name).write_bytes(body)
    facts = Facts.gather(evidence, request, number=number, previous=previous)
    (staging / "DATASHEET.md").write_text(datasheet.render(facts), encoding="utf-8")
    (staging / "LICENSE").write_text(datasheet.licence(facts), encoding="utf-8")
    (staging / "TERMS.md").write_text(datasheet.terms(facts), encoding="utf-8")
    (staging / "prov.jsonld").write_bytes(provenance.render(facts))
    data_files = list_files(staging, pixel_sha256)
    (staging / "croissant.json").write_bytes(croissant.render(facts, data_files))
    found = None
    if previous is not None:
        draft = _manifest(evidence, request, facts, data_files, previous)
        told = diff.Told(_numbers(staging / "reports"), evidence.synthetic.structures)
        found = diff.compare(previous, draft, before or diff.Told(), told)
        said = found.model_dump(mode="json", exclude={"bytes"})  # the size would have to count this very file
        (staging / "reports" / f"diff-from-{previous.version}.json").write_bytes(canonical_json(said))
    catalogue.write_version(staging, facts, evidence, data_files, difference=found)
    return _manifest(evidence, request, facts, list_files(staging, pixel_sha256), previous)


def _numbers(reports: Path) -> dict[str, float]:
    return diff.numbers(*(json.loads((reports / f"{kind}.json").read_bytes()) for kind in ("quality", "privacy")))


def _manifest(
    evidence: Evidence,
    request: ReleaseRequest,
    facts: Facts,
    files: tuple[ManifestFile, ...],
    previous: Manifest | None,
) -> Manifest:
    return Manifest(
        name=request.name,
        version=facts.version,
        created=request.created,
        files=files,
        title=request.title,
        licence=request.licence,
        attribution=request.attribution,
        night=request.night,
        images=facts.shape[0],
        class_counts=facts.class_counts,
        evidence=_bound(evidence),
        previous=previous.version if previous else None,
        previous_manifest_sha256=previous.digest if previous else None,
    )


def list_files(folder: Path, pixel_sha256: dict[str, str]) -> tuple[ManifestFile, ...]:
    """All files below `folder`, sorted by path, with sizes and digests."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            size, sha256 = digest_file(path)
            pixels = pixel_sha256.get(name.removeprefix(f"{IMAGES}/"))
            found.append(ManifestFile(path=name, size=size, sha256=sha256, pixel_sha256=pixels))
    return tuple(sorted(found, key=lambda file: file.path))


def _bound(evidence: Evidence) -> ReleaseEvidence:
    return ReleaseEvidence(
        synthetic=evidence.synthetic.synthetic,
        model=evidence.synthetic.model,
        cohort=evidence.synthetic.cohort,
        pixel_sha256=evidence.synthetic.pixel_sha256,
        labels_sha256=evidence.synthetic.labels_sha256,
        quality_sha256=evidence.quality.report_sha256,
        privacy_sha256=evidence.privacy.report_sha256,
        policy=evidence.privacy.policy,
        policy_sha256=evidence.privacy.policy_sha256,
    )
