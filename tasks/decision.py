"""A night that the gate did not clear waits for a person. The gate still decides; a person decides by which policy."""

from __future__ import annotations

import itertools

from prefect import get_run_logger
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.runtime import flow_run
from pydantic import ValidationError

from medgan.errors import PrivacyRefused
from medgan.records import Choice, Decision, PrivacyReport
from tasks import page, runtime


def ask(refusal: PrivacyRefused, report: PrivacyReport, *, hours: int, question: int) -> Decision:
    """Pause the run until somebody resumes it with the form; nobody for `hours` means that it is left unpublished.

    `question` numbers the pauses of one run, because a pause with a key that was used before does not pause;
    a run that died while it was paused asks again.
    """
    page.text("gate-asks", "What the gate said, and what can be done.", _question(refusal, report, hours))
    for round_ in itertools.count(1):
        key = f"gate-{flow_run.run_count or 1}-{question}-{round_}"
        try:
            given = pause_flow_run(wait_for_input=Decision, timeout=hours * 3600, poll_interval=5, key=key)
            decided = Decision.model_validate(given.model_dump(include=set(Decision.model_fields)))
        except FlowPauseTimeout:
            runtime.log("nobody decided", hours=hours)
            return Decision()
        except ValidationError:
            # The server checks a form's fields, not how they belong together.
            get_run_logger().warning("the form was not complete: to judge again takes a policy and a ticket")
            continue
        runtime.log("decided", choice=decided.choice.value, policy=decided.policy, ticket=decided.ticket or "-")
        return decided
    raise AssertionError


def _question(refusal: PrivacyRefused, report: PrivacyReport, hours: int) -> str:
    worst_first = sorted(report.tests, key=lambda test: (test.passed, not test.conclusive))
    rows = "\n".join(
        f"| {'passed' if test.passed else 'FAILED' if test.conclusive else 'not decided'} | {test.test} | "
        f"{test.value:.4g} | {test.limit:.4g} | {test.title} |"
        for test in worst_first
    )
    return (
        f"## The gate did not clear this cohort\n\n{refusal}.\n\n"
        f"**Resume** this run and choose:\n\n"
        f"* *{Choice.LEAVE.value}*: the night ends, the next one has new seeds. Nobody within {hours} h means this.\n"
        f"* *{Choice.JUDGE_AGAIN.value}*: the same images are attacked and judged again. The policy decides, not the "
        f"person; policy, digest and ticket are on record.\n\n"
        f"| | test | value | limit | what |\n|---|---|---|---|---|\n{rows}\n"
    )
