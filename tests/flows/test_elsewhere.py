"""Training on another pool: one run at a time, however often who waits for it dies or loses the server."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.flows.conftest import ROOT, clean_environment

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

COMMAND = """
import sys, threading, time
from pathlib import Path
from tasks import temporary
temporary.configure(Path(sys.argv[1]))
temporary.start()
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Cancelled, Crashed, Failed
from medgan.errors import TrainingDiverged
from medgan.records import CohortRecipe, CollectionSnapshot, TrainRequest
from tasks import elsewhere

asked = {
    "snapshot": CollectionSnapshot(
        collection="main", snapshot_id="A" * 20, instances=1, series=1, studies=1, patients=1, table_sha256="0" * 64
    ),
    "recipe": CohortRecipe(name="small", modalities=("DX",), class_attribute="finding"),
    "request": TrainRequest(),
}

def end_each_run():
    with get_client(sync_client=True) as client:
        ends = (Crashed(), Failed(message="TrainingDiverged: a loss became non-finite"), Cancelled())
        for number, end in enumerate(ends):
            while len(runs := client.read_flow_runs()) < number + 2:
                time.sleep(0.1)
            (waiting,) = (run for run in runs if run.name != "night" and not run.state.is_final())
            client.set_flow_run_state(waiting.id, end, force=True)

@flow(flow_run_name="night")
def night():
    with get_client(sync_client=True) as client:
        client.create_deployment(client.create_flow_from_name("train"), "train")
        ending = threading.Thread(target=end_each_run)
        ending.start()
        for attempt in ("first", "once more"):
            try:
                elsewhere.train_elsewhere.fn(**asked)
            except TrainingDiverged:
                print(attempt, len(client.read_flow_runs()) - 1, flush=True)
        try:
            elsewhere.train_elsewhere.fn(**asked | {"request": TrainRequest(total_kimg=1)})
        except elsewhere.TrainingCancelled:
            print("cancelled", len(client.read_flow_runs()) - 1, flush=True)
        ending.join()

night()
"""


def test_a_wait_that_begins_again_finds_the_run_of_before_and_only_a_death_is_followed_by_one_other(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, tmp_path],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["first 2", "once more 2", "cancelled 3"], done.stderr[-2000:]
