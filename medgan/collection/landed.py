"""What a collection has acknowledged need not lie in the landing of a remote archive any longer."""

from __future__ import annotations

from collections.abc import Collection

from medgan.archive import prune as landings
from medgan.archive import sources
from medgan.archive.prune import Pruned
from medgan.collection import read, store
from medgan.deid import review
from medgan.keys import Keyring
from medgan.records import CollectionSnapshot
from medgan.settings import Zones


def let_go(
    source: str,
    *,
    held: Collection[str],
    withdrawn: Collection[str],
    days: int | None,
    zones: Zones,
    keyring: Keyring,
) -> Pruned:
    """Let go of landed copies of `source` whose digests the collection holds, or a reviewer rejected for good.

    `withdrawn` are digests and pseudonyms of those who were erased: their copies go without waiting for `days`, and so
    do the pictures that were kept for reviewers.
    """
    settled = {*held, *review.rejected(zones)}
    done = landings.prune(source, settled=settled, withdrawn=withdrawn, days=days, zones=zones, keyring=keyring)
    for sha256 in done.withdrawn:
        review.picture_path(zones, sha256).unlink(missing_ok=True)
    return done


def prune(state: CollectionSnapshot, source: str, *, days: int, zones: Zones, keyring: Keyring) -> Pruned:
    """`let_go` of what landed from `source` at least `days` ago and is in this state of a collection.

    Raises:
        InvalidRequest: no source of this name.
        StoreUnavailable: the identified zone cannot be written.
    """
    held = set(read.table(state, zones=zones)["source_sha256"])
    gone = read.withdrawn(store.root(state, zones=zones))
    withdrawn = gone.patients | gone.sources
    return let_go(source, held=held, withdrawn=withdrawn, days=days, zones=zones, keyring=keyring)


def forget(
    patient: str, *, held: Collection[str], withdrawn: Collection[str], zones: Zones, keyring: Keyring
) -> Pruned:
    """Let go of what landed of one patient from any source, and of the pictures that were kept for reviewers.

    `held` and `withdrawn` are source digests: of what the collection holds, and of what it held of who was erased.
    """
    gone, shared, digests = 0, 0, frozenset[str]()
    for source in sources.registered(zones):
        done = let_go(
            source, held=held, withdrawn={patient, *withdrawn}, days=None, zones=zones, keyring=keyring
        )  # fmt: skip
        gone, shared, digests = gone + done.let_go, shared + done.shared, digests | done.withdrawn
    return Pruned(let_go=gone, shared=shared, withdrawn=digests)
