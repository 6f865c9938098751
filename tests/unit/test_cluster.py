"""Where parallel work runs."""

from __future__ import annotations

import os

import pytest

from medgan import cluster
from medgan.errors import InvalidRequest, StoreUnavailable


def test_the_embedded_cluster_has_one_thread_a_worker_and_is_gone_afterwards():
    with cluster.open_client(workers=1) as client:
        threads = client.submit(os.environ.get, "OMP_NUM_THREADS").result()
        process = client.submit(os.getpid, pure=False).result()
        assert len(client.nthreads()) == 1
    assert threads == "1"
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_no_workers_are_refused():
    with pytest.raises(InvalidRequest), cluster.open_client(workers=0):
        pass


def test_a_scheduler_that_is_not_there_is_a_passing_fault():
    with pytest.raises(StoreUnavailable), cluster.open_client(scheduler="nonsense://127.0.0.1:1"):
        pass
