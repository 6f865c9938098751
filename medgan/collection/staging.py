"""Between archive and commit: batches of instances, de-identified and decoded, each in a folder of its own.

A batch's name is a digest of what decides its content (instances, profile, key, format), so a killed run finds
what it had done. A folder appears when all of it is durable. Nothing here is part of the collection yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgan.collection import durable, layout, schema
from medgan.collection import table as tables
from medgan.collection.packs import Frame
from medgan.errors import IntegrityError
from medgan.records import canonical_json, sha256_hex

FORMAT = 6
"""Raised whenever a staged batch must not be used by a newer version."""

ROWS = "rows.parquet"
REFUSED = "refused.json"
AUDIT = "audit.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Instances that one task works on. `locators` are archive locators in intake order, with their study keys."""

    locators: tuple[Any, ...]
    studies: tuple[str, ...]
    name: str

    @classmethod
    def of(cls, work: Sequence[tuple[str, Any]], *, context: Mapping[str, str]) -> Batch:
        """The batch of (study key, locator) pairs under `context`: what else decides its content."""
        content = {"format": FORMAT, "instances": [locator.sha256 for _, locator in work], **context}
        return cls(
            locators=tuple(locator for _, locator in work),
            studies=tuple(study for study, _ in work),
            name=sha256_hex(canonical_json(content))[:32],
        )


class Stage:
    """The folder of one batch while it is filled."""

    def __init__(self, folder: Path) -> None:
        """Collect rows and frames below `folder`."""
        self._folder = folder
        self._rows: list[dict[str, Any]] = []
        self._frames: dict[str, int] = {}
        self.refused: dict[str, str] = {}
        self.audit: dict[str, dict[str, Any]] = {}

    def add(
        self, columns: Mapping[str, Any], frames: Iterable[Frame], places: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Add one instance: columns of all its frames, the frames (rows, columns[, 3]) integer, columns of each."""
        for index, frame in enumerate(frames):
            little = np.ascontiguousarray(frame).astype(frame.dtype.newbyteorder("<"), copy=False)
            kind = layout.kind(little.shape, frame.dtype.name)
            raw = little.tobytes()
            with (self._folder / f"{kind}.raw").open("ab") as file:
                file.write(raw)
            place = self._frames.get(kind, 0)
            own = {"frame": index, "pack": kind, "pack_index": place, "pixel_sha256": sha256_hex(raw)}
            place_columns = places[index] if index < len(places) else {}
            self._rows.append({**columns, **place_columns, **own, **_levels(frame)})
            self._frames[kind] = place + 1

    def close(self) -> None:
        """Write what was added; the caller's folder is renamed into place afterwards."""
        (self._folder / ROWS).write_bytes(tables.to_parquet(schema.frame_of(self._rows)))
        (self._folder / REFUSED).write_bytes(canonical_json(self.refused))
        (self._folder / AUDIT).write_bytes(canonical_json(self.audit))


def refused(folder: Path) -> dict[str, str]:
    """Source digest -> reason code of a finished batch."""
    found: dict[str, str] = json.loads((folder / REFUSED).read_bytes())
    return found


def audit(folder: Path) -> dict[str, dict[str, Any]]:
    """Source digest -> what de-identification did to that instance, of a finished batch."""
    found: dict[str, dict[str, Any]] = json.loads((folder / AUDIT).read_bytes())
    return found


def rows(folders: Sequence[Path]) -> pd.DataFrame:
    """Rows of finished batches, with the column `batch`: index of the folder that holds the frame."""
    frames = [tables.from_parquet((folder / ROWS).read_bytes()).assign(batch=i) for i, folder in enumerate(folders)]
    if not frames:
        return schema.frame_of([]).assign(batch=0)
    return pd.concat(frames, ignore_index=True)


def frames(folders: Sequence[Path], of_rows: pd.DataFrame) -> Iterator[Frame]:
    """Frames of staged rows, in row order, each checked against the digest it was staged with."""
    held: tuple[tuple[int, str], Frame] | None = None
    columns = zip(
        of_rows["batch"].tolist(),
        of_rows["pack"].tolist(),
        of_rows["pack_index"].tolist(),
        of_rows["pixel_sha256"].tolist(),
        strict=True,
    )
    for batch, kind, index, digest in columns:
        if held is None or held[0] != (batch, kind):
            held = ((batch, kind), _open_raw(folders[batch], kind))
        frame = held[1][index]
        if sha256_hex(frame.tobytes()) != digest:
            raise IntegrityError("a staged frame is not what it was when it was decoded: delete the staging folder")
        yield frame


def finished(folder: Path, batches: Iterable[Batch]) -> set[str]:
    """Names of the batches that stand finished below `folder`; everything else there is removed."""
    wanted = {batch.name for batch in batches}
    done = {path.name for path in folder.iterdir()} & wanted if folder.is_dir() else set()
    durable.keep_only(folder, done)
    return done


def _levels(frame: Frame) -> dict[str, float]:
    """Statistics of the stored integers, for validation: computed here because here every frame is in memory once."""
    return {
        "pixel_min": float(frame.min()),
        "pixel_max": float(frame.max()),
        "pixel_mean": float(frame.mean(dtype=np.float64)),
        "pixel_std": float(frame.std(dtype=np.float64)),
    }


def _open_raw(folder: Path, kind: str) -> Frame:
    shape_text, dtype = kind.rsplit("-", 1)
    shape = tuple(int(length) for length in shape_text.split("x"))
    raw = np.memmap(folder / f"{kind}.raw", dtype=np.dtype(dtype).newbyteorder("<"), mode="r")
    return raw.reshape(-1, *shape)
