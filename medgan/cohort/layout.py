"""Where a cohort lies and what it is called: the name is a digest of what decides its content."""

from __future__ import annotations

import re
from pathlib import Path

from medgan.errors import InvalidRequest
from medgan.records import CohortRecipe, canonical_json, sha256_hex
from medgan.settings import Zones

FORMAT = 1
"""Raised whenever the same table and recipe would give other images or another table."""

IMAGES = "images.zarr"
TABLE = "table.parquet"
RECORD = "cohort.json"
DATA_DOCS = "data-docs"
STATISTICS = "statistics.parquet"


def handle(table_sha256: str, recipe: CohortRecipe) -> str:
    """`co-` and 32 hex digits over the collection's table digest, the recipe and the format version."""
    asked = recipe.model_dump(
        mode="json", exclude=None if recipe.volumes else {"volumes"}
    )  # cohorts of old keep theirs
    content = {"format": FORMAT, "table": table_sha256, "recipe": asked}
    return "co-" + sha256_hex(canonical_json(content))[:32]


def folder(cohort: str, *, zones: Zones) -> Path:
    """Folder of the cohort with this handle; no path is built from anything else."""
    if not re.fullmatch(r"co-[0-9a-f]{16,64}", cohort):
        raise InvalidRequest("a cohort handle is co- and 16 to 64 hex digits")
    return zones.pseudonymised / "cohorts" / cohort
