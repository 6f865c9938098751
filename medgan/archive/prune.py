"""Let go of landed copies: what a remote archive sent is identified, and kept no longer than it is needed.

A landed file goes when all that is in it is settled, and it has lain here for the days that the site says; at once
where somebody who withdrew is in it. What waits or was refused stays: a new version may read it, a reviewer release
it. So do label tables, segmentations and structure sets, which every scan joins.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from medgan.archive import intake, memory, quarantine, sources
from medgan.archive.landing import Landing
from medgan.archive.memory import Outcome, Stamp
from medgan.errors import InvalidRequest
from medgan.keys import Keyring
from medgan.settings import Zones

DAYS_VARIABLE: Final = "MEDGAN_LANDING_DAYS"
_MOST_DAYS: Final = 36_500
_DAY_NANOSECONDS: Final = 24 * 3600 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """Landed files that went; those that stay although a withdrawn patient is in them; that patient's digests."""

    let_go: int = 0
    shared: int = 0
    withdrawn: frozenset[str] = frozenset()


def days_kept() -> int | None:
    """Days that a settled copy stays here, by the environment; None: until somebody asks for it to go."""
    text = os.environ.get(DAYS_VARIABLE, "")
    if not text:
        return None
    if not text.isdecimal() or int(text) > _MOST_DAYS:
        raise InvalidRequest(f"{DAYS_VARIABLE} is a whole number of days, 0 for none")
    return int(text)


def prune(
    source: str,
    *,
    settled: Collection[str],
    withdrawn: Collection[str],
    days: int | None,
    zones: Zones,
    keyring: Keyring,
) -> Pruned:
    """Let go of landed files of `source` as its last scan saw them; a source that lies elsewhere keeps its files.

    `settled` are source digests that a collection answers for. `withdrawn` are digests of files, and pseudonyms of
    patients, that must not stay. Safe to run again: what a kill left is let go of by the next run.
    """
    place = sources.place_of(source, zones=zones, keyring=keyring)
    if not withdrawn and (days is None or not place.is_remote):
        return Pruned()
    remembered = memory.recall(source, zones=zones, keyring=keyring)
    is_withdrawn = _is_withdrawn(frozenset(withdrawn))
    digests = frozenset(one.digest for _, found in remembered.values() for one in found if is_withdrawn(one))
    if not place.is_remote or not remembered:
        return Pruned(withdrawn=digests)
    is_settled = _is_settled(remembered, frozenset(settled), digests, quarantine.recorded(zones))
    landing, doomed, shared = Landing(source, zones=zones, keyring=keyring), set(), 0
    for name, (stamp, found) in remembered.items():
        theirs = any(map(is_withdrawn, found))
        if not all(map(is_settled, found)):
            shared += theirs
        elif theirs or (days is not None and time.time_ns() - stamp[1] >= days * _DAY_NANOSECONDS):
            doomed.add(name)
    if doomed:
        landing.let_go([name.rpartition("/")[2] for name in doomed], remember=place.kind != "receiver")
        left = {name: about for name, about in remembered.items() if name not in doomed}
        memory.remember(source, left, zones=zones, keyring=keyring)
        memory.tidy(intake.spool(source, zones), left)
    return Pruned(let_go=len(doomed), shared=shared, withdrawn=digests)


def _is_withdrawn(withdrawn: frozenset[str]) -> Callable[[Outcome], bool]:
    def is_withdrawn(one: Outcome) -> bool:
        owners = {mark.patient for mark in one.marks} | ({one.header.patient} if one.header is not None else set())
        return one.digest in withdrawn or not withdrawn.isdisjoint(owners)

    return is_withdrawn


def _is_settled(
    remembered: Mapping[str, tuple[Stamp, list[Outcome]]],
    settled: frozenset[str],
    withdrawn: frozenset[str],
    refused: set[str],
) -> Callable[[Outcome], bool]:
    """Whether nobody needs a leaf any more: it is settled, or the same instance packed otherwise, or says nothing."""
    instances = {
        one.header.instance
        for _, found in remembered.values()
        for one in found
        if one.header is not None and one.digest in settled
    }

    def is_settled(one: Outcome) -> bool:
        if one.digest in withdrawn or one.marks:
            return one.digest in withdrawn
        if one.digest in settled or one.rows == []:
            return True
        return one.header is not None and one.header.instance in instances and one.digest not in refused

    return is_settled
