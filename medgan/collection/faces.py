"""Where faces are cut out of head volumes: found once a study, before its instances go their separate ways in batches.

A volume lies in many instances, and a batch holds only some of them, so the whole study is read first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from medgan import cluster, keys
from medgan.archive import instance
from medgan.deid import deface, pseudonym
from medgan.settings import Zones

Cuts = dict[str, deface.Shear]
"""By pseudonymous series key."""


def cuts(
    studies: Iterable[tuple[Any, ...]],
    *,
    zones: Zones,
    key_handle: str,
    agree: Callable[[], None],
    workers: int | None,
    scheduler: str | None,
) -> Cuts:
    """The cuts of `studies`, each the locators of its instances; a task a study on the cluster.

    `agree` is called by every task first: it refuses a worker of another version.
    """
    wanted = list(studies)
    if not wanted:
        return {}
    with cluster.open_client(workers=workers, scheduler=scheduler) as client:
        run = partial(of_study, zones=zones, key_handle=key_handle, agree=agree)
        futures = client.map(run, wanted, pure=False)
        found: Cuts = {}
        for part in client.gather(futures):  # type: ignore[no-untyped-call]
            found |= part
    return found


def of_study(locators: tuple[Any, ...], *, zones: Zones, key_handle: str, agree: Callable[[], None]) -> Cuts:
    """The cuts of one study; instances that cannot be read have none."""
    agree()
    keyring = keys.load(key_handle)
    loaders = [partial(instance.read, locator, zones=zones, keyring=keyring) for locator in locators]
    return deface.by_key(deface.plan(loaders), partial(pseudonym.series_key, keyring))
