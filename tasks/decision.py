"""A night that the gate did not clear waits for a person. The gate still decides; a person decides by which policy."""

from __future__ import annotations

from prefect.flow_runs import pause_flow_run

from medgan.errors import PrivacyRefused
from medgan.records import Choice, Decision, PrivacyReport
from tasks import page, runtime


def ask(refusal: PrivacyRefused, report: PrivacyReport, *, hours: int, question: int) -> Decision:
    """Pause the run until somebody resumes it with the form; nobody for `hours` means that it is left unpublished.

    `question` numbers the pauses of one run, because a pause with a key that was used before does not pause.
    """
    from prefect.exceptions import FlowPauseTimeout

    page.text("gate-asks", "What the gate said, and what can be done.", _question(refusal, report, hours))
    try:
        decided = pause_flow_run(wait_for_input=Decision, timeout=hours * 3600, key=f"gate-{question}")
    except FlowPauseTimeout:
        runtime.log("nobody decided", hours=hours)
        return Decision()
    runtime.log("decided", choice=decided.choice.value, policy=decided.policy, ticket=decided.ticket or "-")
    return Decision.model_validate(decided.model_dump(include=set(Decision.model_fields)))


def _question(refusal: PrivacyRefused, report: PrivacyReport, hours: int) -> str:
    rows = "\n".join(
        f"| {test.test} | {test.title} | {test.value:.4g} | {test.limit:.4g} | "
        f"{'passed' if test.passed else 'FAILED' if test.conclusive else 'not decided'} |"
        for test in report.tests
    )
    return (
        f"## The gate did not clear this cohort\n\n{refusal}.\n\n"
        f"| test | what | value | limit | |\n|---|---|---|---|---|\n{rows}\n\n"
        f"**Resume** this run and choose:\n\n"
        f"* *{Choice.LEAVE.value}*: the night ends, the next one has new seeds. Nobody within {hours} h means this.\n"
        f"* *{Choice.JUDGE_AGAIN.value}*: the same images are attacked and judged again. What is decided and bad "
        f"stays refused; policy, digest and ticket are on record.\n"
    )
