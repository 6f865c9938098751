"""All that a Prefect server must know of medgan, in one repeatable step: pools, deployments, automations."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.types import SecretDict
from prefect.workers.process import ProcessWorker

from medgan.errors import InvalidRequest, StoreUnavailable

ROOT = Path(__file__).parents[1]
POOLS = ("medgan", "medgan-gpu")
QUEUES = {"nights": 1, "commits": 1}
"""Queues of the pool `medgan` and how many of their runs may be under way at once (docs/adr/0006)."""
NOTICES = "medgan-notices"
_SCHEDULE = "schedule"
_OF_THE_SERVER = ("archive", "on_refusal")
"""Parameters of a night that a site's file need not name: prefect.yaml's hold."""
_OURS = "medgan: "
_DEPLOYED = re.compile(r"Deployment '([^']+)'")


def deploy(sites: Mapping[str, dict[str, Any]], *, webhook: str | None = None) -> list[str]:
    """Make pools, deployments and automations as the files of `deployments/` say; returns what was made.

    Args:
        sites: Parameters of a night by the name of its deployment; with none, the demo's as in prefect.yaml.
        webhook: Address that notices are posted to; None keeps the one there is, or tells nobody.

    Raises:
        InvalidRequest: Prefect refuses a deployment.
        StoreUnavailable: the server does not answer.
    """
    with get_client(sync_client=True) as client:
        try:
            made = [f"pool: {pool}" for pool in POOLS if _make_pool(client, pool)]
            with tempfile.TemporaryDirectory() as folder:
                plan = Path(folder) / "prefect.yaml"
                plan.write_text(yaml.safe_dump(planned(sites), sort_keys=False))
                made += _prefect("deploy", "--all", "--prefect-file", str(plan))
            for queue, limit in QUEUES.items():
                known = client.read_work_queue_by_name(queue, work_pool_name=POOLS[0])
                client.update_work_queue(known.id, concurrency_limit=limit)
                made.append(f"queue: {queue}, {limit} at a time")
            block = _notices(client, webhook)
            made += [f"automation: {name}" for name in _automate(client, automations(block))]
        except httpx.HTTPStatusError as refused:
            message = f"the server answers {refused.response.status_code}: check PREFECT_API_AUTH_STRING and its log"
            raise StoreUnavailable(message) from None
        except httpx.HTTPError as error:
            message = f"the server does not answer ({type(error).__name__}): is it still starting? See PREFECT_API_URL"
            raise StoreUnavailable(message) from None
    return made


def planned(sites: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """deployments/prefect.yaml, its night replaced by one a site."""
    plan: dict[str, Any] = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())
    if not sites:
        return plan
    (night,) = (entry for entry in plan["deployments"] if entry["name"] == "nightly")
    nights = []
    for name, given in sites.items():
        mine = copy.deepcopy(night)
        parameters = {key: value for key, value in given.items() if key != _SCHEDULE}
        kept = {key: mine["parameters"][key] for key in _OF_THE_SERVER}
        mine |= {"name": name, "parameters": {**kept, **parameters}}
        if _SCHEDULE in given:
            mine["schedules"] = [{"active": True, **given[_SCHEDULE]}]
        nights.append(mine)
    plan["deployments"] = [*nights, *(entry for entry in plan["deployments"] if entry is not night)]
    return plan


def automations(block: str | None) -> list[AutomationCore]:
    """deployments/automations.yaml; `notify` becomes a message through `block`, and nothing without one."""
    wanted = []
    for entry in yaml.safe_load((ROOT / "deployments/automations.yaml").read_text()):
        actions = [
            {**action, "type": "send-notification", "block_document_id": block}
            if action["type"] == "notify"
            else action
            for action in entry["actions"]
            if action["type"] != "notify" or block
        ]
        if actions:
            wanted.append(AutomationCore.model_validate({**entry, "actions": actions}))
    return wanted


def _automate(client: SyncPrefectClient, wanted: Sequence[AutomationCore]) -> list[str]:
    """Ours, which their names tell, are made anew; one that the file no longer has is gone."""
    for old in client.read_automations():
        if old.name.startswith(_OURS):
            client.delete_automation(old.id)
    for automation in wanted:
        client.create_automation(automation)
    return [automation.name for automation in wanted]


def _notices(client: SyncPrefectClient, webhook: str | None) -> str | None:
    """The id of the block that notices go through; its address is a secret, which the server encrypts."""
    if webhook is not None:
        block = CustomWebhookNotificationBlock(
            name=NOTICES,
            url="{{address}}",
            json_data={"text": "{{subject}}\n{{body}}"},
            secrets=SecretDict({"address": webhook}),
        )
        return str(block.save(NOTICES, overwrite=True))
    try:
        return str(client.read_block_document_by_name(NOTICES, "custom-webhook").id)
    except ObjectNotFound:
        return None


def _make_pool(client: SyncPrefectClient, name: str) -> bool:
    """Make a pool of processes unless it stands; whether it was made."""
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
        return True
    return False


def _prefect(*command: str) -> list[str]:
    """Run a command of Prefect's; the names of what it deployed."""
    environment = os.environ | {"MEDGAN_HOME_DIR": os.environ.get("MEDGAN_HOME_DIR", str(ROOT))}
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-m", "prefect", "--no-prompt", *command],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())[-600:]
        raise InvalidRequest(f"prefect {command[0]} ended with status {done.returncode}: {said}")
    return [f"deployment: {name}" for name in _DEPLOYED.findall(done.stdout)]
