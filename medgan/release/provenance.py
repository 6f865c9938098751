"""prov.jsonld: which activity made what from what, in W3C PROV-O (JSON-LD); only handles and digests."""

from __future__ import annotations

import json
from typing import Any

from medgan.release.facts import Facts


def render(facts: Facts) -> bytes:
    """The provenance graph: cohort -> training -> generator -> synthesis -> release, and the two assessments."""
    synthetic, privacy = facts.synthetic, facts.privacy
    release = f"urn:medgan:release:{facts.request.name}:{facts.version}"
    cohort, model, images = (_urn(handle) for handle in (synthetic.cohort, synthetic.model, synthetic.synthetic))
    graph = [
        _entity(cohort, "de-identified training cohort (not published)"),
        _activity("urn:medgan:activity:train", "training", [cohort]),
        _entity(model, "generator (not published)", "urn:medgan:activity:train", cohort),
        _activity("urn:medgan:activity:synthesise", f"synthesis, seed {synthetic.spec.seed}", [model]),
        _entity(images, "synthetic cohort", "urn:medgan:activity:synthesise", model)
        | {"sha256": synthetic.pixel_sha256},
        _activity("urn:medgan:activity:gate", f"privacy gate, policy {privacy.policy}: {privacy.verdict}", [images]),
        _activity("urn:medgan:activity:publish", f"publication, night {facts.request.night}", [images])
        | {"prov:startedAtTime": {"@type": "xsd:dateTime", "@value": facts.request.created}},
        _entity(release, facts.request.title, "urn:medgan:activity:publish", images),
    ]
    context = {
        "prov": "http://www.w3.org/ns/prov#",
        "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
        "xsd": "http://www.w3.org/2001/XMLSchema#",
        "sha256": "urn:medgan:sha256",
    }
    return (json.dumps({"@context": context, "@graph": graph}, indent=1, sort_keys=True) + "\n").encode()


def _urn(handle: str) -> str:
    return f"urn:medgan:{handle}"


def _entity(name: str, label: str, activity: str | None = None, source: str | None = None) -> dict[str, Any]:
    node: dict[str, Any] = {"@id": name, "@type": "prov:Entity", "rdfs:label": label}
    if activity is not None:
        node["prov:wasGeneratedBy"] = {"@id": activity}
    if source is not None:
        node["prov:wasDerivedFrom"] = {"@id": source}
    return node


def _activity(name: str, label: str, used: list[str]) -> dict[str, Any]:
    return {"@id": name, "@type": "prov:Activity", "rdfs:label": label, "prov:used": [{"@id": one} for one in used]}
