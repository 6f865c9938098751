from __future__ import annotations

import pytest

from medgan.deid import profile
from medgan.deid.profile import Profile
from medgan.keys import Keyring


@pytest.fixture(scope="session")
def keyring() -> Keyring:
    return Keyring(secret=bytes(range(32)))


@pytest.fixture(scope="session")
def basic() -> Profile:
    return profile.load("basic")
