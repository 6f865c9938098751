"""Why something is as it is stands in docs/adr, and code and documents name it by number."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
NUMBERS = [path.name[:4] for path in (ROOT / "docs/adr").glob("*.md")]


def test_a_number_stands_for_one_decision():
    assert [number for number, times in Counter(NUMBERS).items() if times > 1] == []


def test_every_decision_that_is_named_can_be_opened():
    texts = [*ROOT.glob("*.md"), *(path for room in ("docs", "medgan", "flows", "tasks", "deployments", "infra")
             for path in (ROOT / room).rglob("*") if path.suffix in {".md", ".py", ".toml", ".yaml"})]  # fmt: skip
    named = {number for path in texts for number in re.findall(r"docs/adr/(\d{4})", path.read_text())}
    assert named
    assert named - set(NUMBERS) == set()
