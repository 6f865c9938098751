"""What deployments/ declares is what flows/ has: every flow, with a form that people can fill in."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
import yaml
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

import flows
from medgan.gan import recipes
from medgan.privacy import policy
from medgan.records import Choice, Decision
from tasks import deploy
from tests.flows.conftest import ROOT

PLAN = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())
DEPLOYED = {entry["name"]: entry for entry in PLAN["deployments"]}


def _flow(entry) -> Flow:
    module, _, name = entry["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_flow_is_deployed_under_its_own_name():
    modules = [importlib.import_module(f"flows.{m.name}") for m in pkgutil.iter_modules(flows.__path__)]
    there = {value.name for module in modules for value in vars(module).values() if isinstance(value, Flow)}
    assert set(DEPLOYED) == there
    assert all(_flow(entry).name == name for name, entry in DEPLOYED.items())


@pytest.mark.parametrize("name", DEPLOYED)
def test_a_form_describes_every_field_and_refuses_what_the_flow_would(name):
    flow = _flow(DEPLOYED[name])
    schema = parameter_schema(flow).model_dump()
    assert DEPLOYED[name]["enforce_parameter_schema"] is True
    assert set(DEPLOYED[name].get("parameters", {})) <= set(inspect.signature(flow.fn).parameters)
    undescribed = [key for key, field in schema["properties"].items() if not field.get("description")]
    assert not undescribed, f"the docstring says nothing of {undescribed}"


def test_forms_offer_the_recipes_and_policies_that_there_are():
    schema = parameter_schema(_flow(DEPLOYED["nightly"])).model_dump()
    assert set(schema["properties"]["policy"]["enum"]) == set(policy.names())
    offered = set(schema["definitions"]["TrainRequest"]["properties"]["recipe"]["examples"])
    assert offered == set(recipes.RECIPES), "the form's examples stand in medgan/records/model.py"


def test_the_deployed_night_is_the_demo_night():
    demo = yaml.safe_load((ROOT / "deployments/sites/demo.yaml").read_text())
    of_the_server = {"archive", "on_refusal"}
    parameters = DEPLOYED["nightly"]["parameters"]
    assert {key: value for key, value in parameters.items() if key not in of_the_server} == demo


def test_each_site_has_its_own_night_with_its_own_schedule_and_the_rest_is_untouched():
    schedule = {"cron": "30 2 * * *", "timezone": "Asia/Tokyo"}
    plan = deploy.planned({"north": {"dataset": "north", "schedule": schedule}, "south": {"dataset": "south"}})
    north, south, *rest = plan["deployments"]
    assert (north["name"], north["parameters"]["dataset"]) == ("north", "north")
    assert north["schedules"] == [{"active": True, **schedule}]
    assert "schedule" not in north["parameters"]
    assert south["schedules"] == DEPLOYED["nightly"]["schedules"]
    assert south["parameters"]["on_refusal"] == "ask a person", "a site asks too, unless its file says otherwise"
    assert rest == PLAN["deployments"][1:]


def test_notices_are_left_out_where_nobody_is_told_and_every_other_automation_stays():
    block = "11111111-2222-3333-4444-555555555555"
    told, silent = deploy.automations(block), deploy.automations(None)
    assert {a.name for a in silent} < {a.name for a in told}
    assert any(getattr(action, "block_document_id", None) for a in told for action in a.actions)


def test_what_is_safe_to_go_on_with_is_resumed_when_its_process_dies_and_gives_up_some_day():
    (resumes,) = (a for a in deploy.automations(None) if "resumed" in a.name)
    assert resumes.trigger.match_related["prefect.resource.id"] == ["prefect.tag.resumed"]
    resumed = {name for name, entry in DEPLOYED.items() if "resumed" in entry["tags"]}
    assert resumed == {"nightly", "ingest", "erase"}
    for name in resumed:
        body = inspect.getsource(_flow(DEPLOYED[name]).fn)
        assert "ledger(" in body or "give_up_when_it_dies_too_often()" in body, f"{name} would die for ever"


def test_judging_again_takes_a_ticket():
    with pytest.raises(ValidationError, match="the ticket that holds the reasons"):
        Decision(choice=Choice.JUDGE_AGAIN, policy="internal")


def test_publishing_what_the_gate_refused_is_no_choice():
    assert {choice.name for choice in Choice} == {"LEAVE", "JUDGE_AGAIN"}


def test_no_run_hangs_on_a_lease_that_the_server_may_forget():
    assert not [name for name, entry in DEPLOYED.items() if "concurrency_limit" in entry]
    queues = {entry["work_pool"].get("work_queue_name") for entry in PLAN["deployments"]}
    assert set(deploy.QUEUES) <= queues
    assert DEPLOYED["nightly"]["work_pool"]["work_queue_name"] == "nights"
