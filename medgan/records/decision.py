"""Records of operating the nights: what a person decides, where a night trains, what was let go."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from medgan.records.base import Name, Record

ShippedPolicy = Annotated[Name, Field(json_schema_extra={"enum": ["dp", "internal", "strict"]})]
"""A policy by its name; Prefect's forms offer these and its API refuses others (medgan.privacy.policies)."""


class Choice(StrEnum):
    """What may be done with a cohort that the gate did not clear. To publish it all the same is no choice."""

    LEAVE = "leave it unpublished"
    JUDGE_AGAIN = "judge it again under another policy"


class Decision(Record):
    """The form of a paused night. The gate still decides; a person decides by which policy it does."""

    choice: Choice = Field(default=Choice.LEAVE, title="What shall be done?")
    policy: ShippedPolicy = Field(
        default="strict",
        title="Policy",
        description="Only to judge again: the policy whose limits then decide. It is printed in the release.",
    )
    ticket: str = Field(
        default="",
        title="Ticket",
        pattern=r"^[A-Za-z0-9#/_-]{0,40}$",
        description="Where the reasons are written down, for example DPO-117. No name of a person.",
    )

    @model_validator(mode="after")
    def _judging_again_says_why(self) -> Decision:
        if self.choice is Choice.JUDGE_AGAIN and not self.ticket:
            message = "to judge again takes the ticket that holds the reasons"
            raise ValueError(message)
        return self


class Refusal(StrEnum):
    """What a night does when the gate does not clear its cohort."""

    END = "end the night"
    ASK = "ask a person"


class TrainAt(StrEnum):
    """Where a night trains."""

    HERE = "in the night's own process"
    POOL = "as a run of the train deployment"


class Retention(Record):
    """What the retention flow let go."""

    runs: int = Field(ge=0, description="Runs deleted from Prefect's database.")
    states: int = Field(ge=0, description="Past states of the collection.")
