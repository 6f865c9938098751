"""croissant.json: Croissant 1.1 with Responsible-AI fields (mlcommons.org/croissant/1.1, .../RAI/1.0).

Records are described over the Parquet file only: a RecordSet over Zarr validates and then fails on read
(measured with mlcroissant 1.1). Licence is mandatory and every path stays inside the version.
"""

from __future__ import annotations

import json
from typing import Any

from medgan.client.registry import safe_path
from medgan.records import ManifestFile
from medgan.release.datasheet import licence_link
from medgan.release.facts import Facts

CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
_PARQUET = "application/x-parquet"
_DATA_TYPES = {"int": "sc:Integer", "uint": "sc:Integer", "float": "sc:Float", "bool": "sc:Boolean"}
_TERMS = (
    "citeAs column extract field fileProperty fileObject fileSet format includes isLiveDataset jsonPath key md5 "
    "parentField path recordSet references regex repeated replace samplingRate separator source subField transform"
)


def render(facts: Facts, files: tuple[ManifestFile, ...]) -> bytes:
    """The JSON-LD document over the data `files` of a version."""
    request = facts.request
    document = {
        "@context": _context(),
        "@type": "sc:Dataset",
        "name": request.name,
        "description": (
            f"{request.title}: {facts.shape[0]:,} synthetic {facts.pictured} with labels. "
            "Every image was made by a generative model; none shows a patient."
            + (" Masks beside them outline " + ", ".join(facts.structures) + "." if facts.structures else "")
        ),
        "conformsTo": CONFORMS_TO,
        "citeAs": facts.citation,
        "datePublished": request.created[:10],
        "license": licence_link(request.licence)[1],
        "url": "index.html",
        "version": facts.version,
        "isLiveDataset": False,
        "distribution": [_file(file) for file in files if _described(file)],
        "recordSet": [_labels(facts)],
        "prov:wasGeneratedBy": {"@id": f"urn:medgan:{facts.synthetic.model}"},
        **_responsible(facts),
    }
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _context() -> dict[str, Any]:
    terms: dict[str, Any] = {term: f"cr:{term}" for term in _TERMS.split()}
    terms |= {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "conformsTo": "dct:conformsTo",
        "cr": "http://mlcommons.org/croissant/",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "dct": "http://purl.org/dc/terms/",
        "equivalentProperty": "cr:equivalentProperty",
        "examples": {"@id": "cr:examples", "@type": "@json"},
        "prov": "http://www.w3.org/ns/prov#",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "sc": "https://schema.org/",
    }
    return terms


def _described(file: ManifestFile) -> bool:
    return file.path == "labels.parquet" or file.pixel_sha256 is not None


def _file(file: ManifestFile) -> dict[str, Any]:
    path = safe_path(file.path)
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "contentSize": f"{file.size} B",
        "encodingFormat": _PARQUET if path.endswith(".parquet") else "application/octet-stream",
        "sha256": file.sha256,
    }


def _labels(facts: Facts) -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"labels/{name}",
            "name": f"labels/{name}",
            "description": f"Column {name} of labels.parquet; row i belongs to image i.",
            "dataType": _data_type(kind),
            "source": {"fileObject": {"@id": "labels.parquet"}, "extract": {"column": name}},
        }
        for name, kind in facts.columns.items()
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": "labels",
        "name": "labels",
        "description": "One row an image of images.zarr, in the same order.",
        "field": fields,
    }


def _data_type(kind: str) -> str:
    return _DATA_TYPES.get(kind.lower().rstrip("0123456789"), "sc:Text")


def _responsible(facts: Facts) -> dict[str, Any]:
    privacy = facts.privacy
    return {
        "rai:dataCollection": (
            "Drawn from a generator trained on a de-identified cohort; no record or image of a person is included."
        ),
        "rai:personalSensitiveInformation": [
            (
                f"None by construction. The privacy gate said '{privacy.verdict}' under policy '{privacy.policy}'. "
                "This is evidence under the attacks listed in reports/privacy.json, not a proof."
            )
        ],
        "rai:dataLimitations": [
            *facts.limits,
            *(f"Not tested: {item}" for item in privacy.not_tested),
        ],
        "rai:dataUseCases": [facts.request.terms],
        **({"rai:dataAnnotationProtocol": [_protocol(facts)]} if facts.structures else {}),
    }


def _protocol(facts: Facts) -> str:
    return (
        f"Array masks of images.zarr, one mask an image: 0 is background, {_structures(facts)}. "
        "Drawn by a network that learned from segmentations of the training cohort; nobody corrected them."
    )


def _structures(facts: Facts) -> str:
    return ", ".join(f"{value} {name}" for value, name in enumerate(facts.structures, start=1))
