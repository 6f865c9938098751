"""DATASHEET.md, LICENSE and TERMS.md, rendered from records.

Sections follow "Datasheets for Datasets" (Gebru et al. 2021, doi:10.1145/3458723).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medgan.quality.report import title_of
from medgan.records import GateTest
from medgan.release.facts import Facts, number

LICENCE_LINKS = {
    "CC-BY-4.0": ("Creative Commons Attribution 4.0 International", "https://creativecommons.org/licenses/by/4.0/"),
    "CC-BY-SA-4.0": (
        "Creative Commons Attribution-ShareAlike 4.0 International",
        "https://creativecommons.org/licenses/by-sa/4.0/",
    ),
    "CC-BY-NC-4.0": (
        "Creative Commons Attribution-NonCommercial 4.0 International",
        "https://creativecommons.org/licenses/by-nc/4.0/",
    ),
    "CC0-1.0": ("Creative Commons Zero 1.0 Universal", "https://creativecommons.org/publicdomain/zero/1.0/"),
}


def licence_link(identifier: str) -> tuple[str, str]:
    """Name and address of a licence; SPDX's page where we know none better."""
    return LICENCE_LINKS.get(identifier, (identifier, f"https://spdx.org/licenses/{identifier}.html"))


def render(facts: Facts) -> str:
    """The datasheet in Markdown."""
    return "\n".join(_sections(facts)) + "\n"


def licence(facts: Facts) -> str:
    """The LICENSE file: which licence, where its text stands, and the credit that is asked for."""
    name, link = licence_link(facts.request.licence)
    lines = [f"SPDX-License-Identifier: {facts.request.licence}", "", f"{facts.request.title} is published under:"]
    lines += [f"{name}", link]
    if facts.request.attribution:
        lines += ["", "Attribution:", facts.request.attribution]
    return "\n".join(lines) + "\n"


def terms(facts: Facts) -> str:
    """The terms of use."""
    return (
        f"# Terms of use: {facts.request.title} {facts.version}\n\n{facts.request.terms.strip()}\n\n"
        "Every image is synthetic. Do not try to find out who contributed to the training data, and do not use the "
        "images as if they showed patients.\n"
    )


def _sections(facts: Facts) -> Iterable[str]:
    count = facts.shape[0]
    request, privacy = facts.request, facts.privacy
    yield f"# {request.title} {facts.version}"
    yield f"\n**Synthetic data set** `{facts.spec}`: {count:,} {facts.pictured}, made {request.created}."
    yield "\n## Composition\n"
    for column, values in facts.counts.items():
        yield _table((column, "images", "share"), [(v, f"{n:,}", f"{n / count:.1%}") for v, n in values.items()])
    yield "Label columns: " + ", ".join(f"`{name}` ({kind})" for name, kind in facts.columns.items()) + "."
    if facts.structures:
        yield "\nA mask beside each image (`masks` in `images.zarr`, uint8, 0 is background):\n"
        rows = [(str(value), name, f"{n:,}") for value, (name, n) in enumerate(facts.structures.items(), start=1)]
        yield _table(("value", "structure", "images that show it"), rows)
    yield "\nHow stored values become physical ones, as attributes of the array:\n"
    yield _table(
        ("attribute", "value"), [(f"`{name}`", str(value)) for name, value in sorted(facts.attributes.items())]
    )
    yield "## How it was made\n"
    yield (
        f"A generator (`{facts.synthetic.model}`) was trained on the cohort `{facts.synthetic.cohort}` of "
        f"de-identified images; this set was drawn from it with seed {facts.synthetic.spec.seed}. "
        "No image of a patient is part of it."
    )
    yield "\n" + " ".join(facts.limits)
    yield "\n## Quality\n"
    yield _table(
        ("measure", "value", "beside", "reference", "better"),
        [
            (
                title_of(m.name),
                number(m.value),
                "" if m.reference is None else number(m.reference),
                m.reference_name,
                m.better,
            )
            for m in facts.measures
        ],
    )
    yield f"Features: encoder `{facts.encoder_sha256[:16]}`. The whole report: `reports/quality.html`."
    yield f"\n## Privacy\n\nVerdict of policy `{privacy.policy}`: **{privacy.verdict}**.\n"
    yield _table(
        ("test", "value", "limit", "within"),
        [(t.title, number(t.value), number(t.limit), _within(t)) for t in facts.tests],
    )
    if privacy.dropped:
        yield f"{privacy.dropped:,} images too near to a training image were found, dropped and redrawn."
    yield "\nNot tested: " + ("; ".join(privacy.not_tested) or "nothing is recorded as untested") + "."
    yield (
        "\nA verdict is evidence about these bytes under the attacks listed, not a proof. "
        "The whole report: `reports/privacy.html`."
    )
    yield "\n## Uses, licence, citation\n"
    yield f"{request.terms.strip()}\n\nLicence: {request.licence} (see LICENSE). {request.attribution}".rstrip()
    yield f"\nCite as: {facts.citation}"


def _within(test: GateTest) -> str:
    if not test.conclusive:
        return "open: not decided with this many patients"
    return "yes" if test.passed else "no"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines) + "\n"
