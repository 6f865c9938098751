"""Inspect a whole collection: every row against the suite for collections. Reports, stops nothing."""

from __future__ import annotations

from pathlib import Path

from medgan.collection import durable
from medgan.collection import read as collection
from medgan.records import CollectionSnapshot
from medgan.settings import Zones
from medgan.validation import expectations, rules, sources, suites
from medgan.validation.expectations import Finding


def inspect(
    snapshot: CollectionSnapshot, *, zones: Zones, site: Path | None = None, data_docs: Path | None = None
) -> list[Finding]:
    """Findings of the collection suite over every row of `snapshot`; Data Docs below `data_docs` where given.

    A cohort is admitted or refused on its own rows (`admit`); a hospital's collection always holds odd ones.
    """
    suite = rules.with_site(suites.collection_suite(), site)
    facts = {suites.SOURCES: sources.facts(collection.table(snapshot, zones=zones))}
    if data_docs is None:
        return expectations.run(suite, facts, title=snapshot.collection)
    with durable.replaced_folder(data_docs) as folder:
        return expectations.run(suite, facts, title=snapshot.collection, data_docs=folder)
