"""Where every received file went: a partition of a set of SHA-256, checked as sets and kept as sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from medgan.collection import durable
from medgan.errors import IntegrityError
from medgan.records import canonical_json
from medgan.settings import Zones


@dataclass(slots=True, kw_only=True)
class Accounting:
    """Source digests by what became of them. `quarantined` maps to a reason code."""

    received: frozenset[str]
    stored: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)
    quarantined: dict[str, str] = field(default_factory=dict)
    withdrawn: set[str] = field(default_factory=set)

    @property
    def pending(self) -> set[str]:
        """What nothing has happened to yet."""
        return set(self.received) - self.stored - self.known - set(self.quarantined) - self.withdrawn

    @property
    def reasons(self) -> dict[str, int]:
        """Quarantined files by reason code."""
        return dict(sorted(Counter(self.quarantined.values()).items()))

    def check(self) -> None:
        """`IntegrityError` unless received = stored + known + quarantined + withdrawn + pending, disjointly."""
        groups = [self.stored, self.known, set(self.quarantined), self.withdrawn, self.pending]
        union: set[str] = set().union(*groups)
        if union != self.received or sum(map(len, groups)) != len(union):
            raise IntegrityError(
                f"the accounting of this ingest does not add up ({len(self.received)} received, "
                f"{sum(map(len, groups))} accounted for): nothing was committed, report it"
            )

    def keep(self, scan_id: str, *, zones: Zones) -> None:
        """Write the sets to the identified zone, beside the intake index of the scan."""
        sets: Mapping[str, object] = {
            "stored": sorted(self.stored),
            "known": sorted(self.known),
            "quarantined": dict(sorted(self.quarantined.items())),
            "withdrawn": sorted(self.withdrawn),
            "pending": sorted(self.pending),
        }
        durable.write_bytes(zones.identified / "intake" / f"{scan_id}.accounting.json", canonical_json(sets))
