"""The doors: `medgan list|info|pull|verify|diff` say what they did in words, and in JSON where asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata

import numpy as np
import pytest
from typer.testing import CliRunner

import medgan
from medgan.client import diff as diffs
from medgan.client import pull as pulls
from medgan.client.cli import app
from medgan.errors import IntegrityError, InvalidRequest
from medgan.release import index as indexes
from medgan.release import publish, stores
from tests.builders import release as build


@pytest.fixture
def current(published, monkeypatch):
    """The registry as of now: its index is not expired whatever day the tests run."""
    monkeypatch.setattr(indexes, "VALID_DAYS", 36500)
    other = build.synthetic_cohort(published.zones, start=1500, count=1200)
    publish.publish(other.cleared, build.request(night=2, created="2026-11-21T22:00:00Z"), zones=published.zones)
    monkeypatch.setenv("MEDGAN_REGISTRY", str(published.zones.registry))
    return published


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "160"})
    assert result.exception is None, result.exception
    return result.output


def test_commands_list_show_pull_and_verify(current):
    listed = run("list", "--trust", current.key)
    assert "chest-demo" in listed
    assert "2.0.0" in listed
    assert "active, latest" in listed
    shown = run("info", "chest-demo@1")
    assert "1,100 synthetic" in shown
    assert "cleared under policy strict" in shown
    folder = run("pull", "chest-demo@1").strip().splitlines()[-1]
    assert medgan.open_folder(folder).version == "1.0.0"
    assert "files are as they were signed" in run("verify", "chest-demo@1")


def test_words_of_a_publisher_are_shown_as_they_are(published):
    odd = build.request("odd", title="CT [low dose] [/x] :warning: thorax", created="2026-11-28T22:00:00Z")
    publish.publish(build.synthetic_cohort(published.zones, count=40).cleared, odd, zones=published.zones)
    shown = run("info", "odd", "--registry", published.zones.registry, "--trust", published.key)
    assert "CT [low dose] [/x] :warning: thorax" in shown


def test_words_of_a_publisher_do_not_steer_the_terminal(published):
    odd = build.request("odd", title="thorax\x1b]0;owned\x07", created="2026-11-28T22:00:00Z")
    publish.publish(build.synthetic_cohort(published.zones, count=40).cleared, odd, zones=published.zones)
    shown = run("info", "odd", "--registry", published.zones.registry, "--trust", published.key)
    assert "thorax" in shown
    assert not {"\x1b", "\x07"} & set(shown)


def test_an_error_is_one_line_and_the_version_is_told(tmp_path):
    command = [sys.executable, "-m", "medgan.cli"]
    home = os.environ | {"MEDGAN_HOME": str(tmp_path)}
    failed = subprocess.run([*command, "info", "a@b@c"], check=False, capture_output=True, text=True, env=home)
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
    told = subprocess.run([*command, "--version"], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == metadata.version("medgan")


def test_verify_says_when_a_pulled_file_changed(current):
    run("list", "--trust", current.key)
    folder = pulls.pull("chest-demo@1")
    (folder / "labels.parquet").write_bytes(b"x")
    result = CliRunner().invoke(app, ["verify", "chest-demo@1"])
    assert isinstance(result.exception, IntegrityError)
    with pytest.raises(InvalidRequest, match="is not here"):
        medgan.client.report.verify_pulled("chest-demo@2")


def test_diff_counts_shards_classes_and_numbers(current):
    run("list", "--trust", current.key)
    found = json.loads(run("diff", "chest-demo@1", "chest-demo@2", "--json"))
    assert found["images"] == [1100, 1200]
    assert found["shards"] == {"same": 0, "changed": 2, "added": 0, "removed": 0}
    assert found["measures"]["quality: tstr_auc"] == [0.902, 0.902]
    assert found["measures"]["privacy: membership"] == [0.012, 0.012]
    assert sum(after for _, after in found["class_counts"].values()) == 1200
    words = run("diff", "chest-demo@1", "chest-demo@2")
    assert "images: 1,100 -> 1,200" in words
    assert "0 the same, 2 changed" in words


def test_diff_of_two_data_sets_is_refused(current):
    with pytest.raises(InvalidRequest, match="one data set"):
        diffs.diff("chest-demo", "other", registry=str(current.zones.registry), trust=current.key)


class Ranged(SimpleHTTPRequestHandler):
    """A static server that answers ranges, as nginx and S3 do, and keeps the requests it saw."""

    seen: list[tuple[str, str | None]] = []  # noqa: RUF012 - one server a test

    def do_GET(self):
        asked = self.headers.get("Range")
        self.seen.append((self.path, asked))
        if asked is None:
            super().do_GET()
            return
        path = self.translate_path(self.path)
        with open(path, "rb") as file:  # noqa: PTH123
            file.seek(int(asked.removeprefix("bytes=").rstrip("-")))
            body = file.read()
        self.send_response(206)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.fixture(params=[Ranged, SimpleHTTPRequestHandler], ids=["ranges", "no ranges"])
def web(request, current):
    Ranged.seen.clear()
    quiet = type("Quiet", (request.param,), {"log_message": lambda *_: None})
    handler = partial(quiet, directory=str(current.zones.registry))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_pull_over_http_verifies_and_resumes_in_the_middle_of_a_file(current, web, tmp_path):
    folder = pulls.pull("chest-demo@1", registry=web, trust=current.key, cache=tmp_path / "a")
    assert np.array_equal(medgan.open_folder(folder).images, current.built.images)
    store = stores.FolderStore(current.zones.registry)
    table, _ = indexes.read(store, publish.sign.load_key(current.zones.signing_key))
    digest = table.datasets[0].versions[0].manifest_sha256[:16]
    staging = tmp_path / "b" / "chest-demo" / f".1.0.0-{digest}.partial"
    shard = "images.zarr/images/c/0/0/0"
    (staging / shard).parent.mkdir(parents=True)
    (staging / f"{shard}.part").write_bytes((folder / shard).read_bytes()[:5000])
    again = pulls.pull("chest-demo@1", registry=web, cache=tmp_path / "b")
    assert (again / shard).read_bytes() == (folder / shard).read_bytes()
    if Ranged.seen:
        assert (f"/chest-demo/1.0.0/{shard}", "bytes=5000-") in Ranged.seen


def test_wrong_bytes_of_an_interrupted_pull_are_thrown_away(current, web, tmp_path):
    folder = pulls.pull("chest-demo@1", registry=web, trust=current.key, cache=tmp_path / "a")
    manifest = medgan.info("chest-demo@1", registry=web)
    staging = tmp_path / "b" / "chest-demo" / f".1.0.0-{manifest.digest[:16]}.partial"
    (staging / "reports").mkdir(parents=True)
    (staging / "reports" / "privacy.json").write_text("forged")
    (staging / "extra.txt").write_text("extra")
    again = pulls.pull("chest-demo@1", registry=web, cache=tmp_path / "b")
    assert sorted(p.name for p in again.rglob("*")) == sorted(p.name for p in folder.rglob("*"))


def test_light_install_runs_the_client_without_the_platform(current, tmp_path):
    """None of the platform's libraries is imported to pull, verify and load."""
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'prefect', 'pydicom', 'dask', 'icechunk', 'matplotlib', 'PIL',"
        " 'jinja2', 'sklearn', 'scipy', 'great_expectations', 'imagecodecs', 'safetensors'}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import medgan\n"
        f"d = medgan.load('chest-demo@1', split='train', trust={str(current.key)!r})\n"
        "assert d.images.shape == (1100, 28, 28) and len(d.labels) == 1100\n"
        "import medgan.client.cli\n"
    )
    environment = os.environ | {"MEDGAN_HOME": str(tmp_path / "light")}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment)
