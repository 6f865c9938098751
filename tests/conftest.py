"""How the tests share two cores: whole files side by side, and everything that needs Prefect in one place."""

from __future__ import annotations

from pathlib import Path

import pytest

_FLOWS = Path(__file__).parent / "flows"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests by file, so that a module's fixtures are built once; the flow tests share one site and one night."""
    for item in items:
        group = "flows" if item.path.is_relative_to(_FLOWS) else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    # The longest group first: it starts while the rest is still plenty.
    items.sort(key=lambda item: not item.path.is_relative_to(_FLOWS))
