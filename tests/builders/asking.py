"""`python -m tests.builders.asking RECORD`: a flow that asks a person about a privacy report, as a refused night does.

Prints what was decided. The report is read from a file, as it stands beside a synthetic cohort.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow, tags

from medgan.errors import PrivacyRefused
from medgan.records import PrivacyReport
from tasks.decision import ask


@flow(name="asking")
def asking(report: PrivacyReport, questions: int) -> None:
    """Ask so many times."""
    for question in range(1, questions + 1):
        refusal = PrivacyRefused(f"policy {report.policy} says {report.verdict.value}. Nothing is published")
        decision = ask(refusal, report, hours=1, question=question)
        sys.stdout.write(f"{question}: {decision.choice.name} {decision.policy} {decision.ticket or '-'}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    with tags("night"):  # as the deployment of a night has it: automations go by the tag
        asking(PrivacyReport.model_validate_json(Path(sys.argv[1]).read_bytes()), int(sys.argv[2]))
