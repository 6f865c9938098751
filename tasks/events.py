"""What Prefect's server is told, and whether it listens: taking an event is not yet doing something about it.

A server whose database went away while it started takes events ever after and acts on none (Prefect 3.8.8: its service
of triggers has ended, and nothing starts it again; docs/adr/0082). So the only answer that counts is that an automation
has acted on the event.

Nothing of Prefect is imported: who watches a server should not weigh as much as it does.
"""

from __future__ import annotations

import os
import ssl
import time
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

import httpx

PULSE = "medgan: pulse"
"""Name of the automation that acts on a pulse, by doing nothing (deployments/automations.yaml)."""
_PULSE_EVENT = "medgan.pulse"
_ACTED = "prefect.automation.action.executed"
REFUSALS = {401, 403}
"""How a server answers a wrong password, or none."""
_PAUSE_SECONDS = 1.0
_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A Prefect server: the address of its API, and what it asks for, as `user:password` (empty: nothing)."""

    address: str
    password: str = field(default="", repr=False)

    @classmethod
    def of_the_environment(cls) -> Self:
        """The one that PREFECT_API_URL names, with PREFECT_API_AUTH_STRING."""
        return cls(address=os.environ["PREFECT_API_URL"], password=os.environ.get("PREFECT_API_AUTH_STRING", ""))

    def ask(self, path: str, body: Any) -> Any:
        """Post `body` to `path`; the answer's JSON. Raises `httpx.HTTPError` when it does not answer, or refuses."""
        user, _, password = self.password.partition(":")
        credentials = (user, password) if self.password else None
        authority = os.environ.get("PREFECT_API_SSL_CERT_FILE")  # as Prefect's own client believes it
        trusted = ssl.create_default_context(cafile=authority) if authority else True
        address = f"{self.address}{path}"
        answer = httpx.post(address, json=body, auth=credentials, timeout=_TIMEOUT_SECONDS, verify=trusted)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def answers_anybody(self) -> bool:
        """Whether it answers without a password. Raises `httpx.HTTPError` as `ask`."""
        try:
            replace(self, password="").ask("/flow_runs/count", {})
        except httpx.HTTPStatusError as refusal:
            if refusal.response.status_code in REFUSALS:
                return False
            raise
        return True

    def tell(self, event: str, *, resource: str, name: str) -> str:
        """Send an event about a resource; returns its id. Raises `httpx.HTTPError` as `ask`."""
        told = {"id": str(uuid.uuid4()), "occurred": datetime.now(UTC).isoformat(), "event": event}
        about = {"prefect.resource.id": resource, "prefect.resource.name": name}
        self.ask("/events", [{**told, "resource": about, "related": [], "payload": {}}])
        return told["id"]

    def acts_on(self, event: str, *, within_seconds: float) -> bool:
        """Whether an automation acts on the event of this id in that time. Raises `httpx.HTTPError` as `ask`."""
        done = {"event": {"name": [_ACTED]}, "related": {"id": [f"prefect.event.{event}"]}}
        deadline = time.monotonic() + within_seconds
        while not (acted := bool(self.ask("/events/filter", {"filter": done})["total"])):
            if time.monotonic() > deadline:
                break
            time.sleep(_PAUSE_SECONDS)
        return acted

    def knows_the_pulse(self) -> bool:
        """Whether it was told to act on a pulse (`python -m flows deploy`). Raises `httpx.HTTPError` as `ask`."""
        known = self.ask("/automations/filter", {"automations": {"name": {"any_": [PULSE]}}})
        return any(automation["enabled"] for automation in known)

    def acts_on_a_pulse(self, *, within_seconds: float) -> bool:
        """Whether it does something about a pulse in that time. Raises `httpx.HTTPError` as `ask`."""
        pulse = self.tell(_PULSE_EVENT, resource=_PULSE_EVENT, name="pulse")
        return self.acts_on(pulse, within_seconds=within_seconds)

    def is_deaf(self, *, patience_seconds: float) -> bool:
        """Whether it takes a pulse and does nothing about it for that long.

        One that does not answer, or does not know the pulse, is not called deaf.
        """
        try:
            return self.knows_the_pulse() and not self.acts_on_a_pulse(within_seconds=patience_seconds)
        except (httpx.HTTPError, ValueError, LookupError):
            return False
