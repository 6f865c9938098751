"""What infra/ declares is what its README promises: nobody is root, nothing is unpinned, and zones are kept apart."""

from __future__ import annotations

import configparser
import itertools
import json
import re
import stat
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

INFRA = Path(__file__).parents[2] / "infra"
KUBERNETES = INFRA / "kubernetes"
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
MANIFESTS = [
    manifest
    for path in sorted(KUBERNETES.glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for manifest in yaml.safe_load_all(path.read_text())
]
DASK = yaml.safe_load((KUBERNETES / "dask/cluster.yaml").read_text())["spec"]
HELM = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((KUBERNETES / "helm").glob("*.yaml"))}
PODS = {
    **{m["metadata"]["name"]: m["spec"]["template"]["spec"] for m in MANIFESTS if "template" in m.get("spec", {})},
    "dask-worker": DASK["worker"]["spec"],
    "dask-scheduler": DASK["scheduler"]["spec"],
}
PINNED = re.compile(r"[^:@]+:(?!latest)[\w.-]*\d[\w.-]*(@sha256:[0-9a-f]{64})?")
DEPLOYED = yaml.safe_load((INFRA.parent / "deployments/prefect.yaml").read_text())["deployments"]
UNITS = {path.name: path for path in sorted((INFRA / "systemd").glob("*.service"))}
ZONES = {"archive", "identified", "keys", "pseudonymised", "synthetic", "published"}


def _claims(volumes) -> set[str]:
    return {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v}


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
def test_every_manifest_is_what_the_api_takes(manifest):
    kubernetes_validate.validate(manifest, "1.32", strict=True)


@pytest.mark.parametrize("name", ["dask-worker", "dask-scheduler"])
def test_the_pods_inside_the_dask_resource_are_what_the_api_takes(name):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": PODS[name]}
    kubernetes_validate.validate(pod, "1.32", strict=True)


@pytest.mark.parametrize("name", PODS)
def test_no_pod_is_root_writable_unlimited_unpinned_or_holds_a_token(name):
    pod = PODS[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert PINNED.fullmatch(container["image"])
        closed = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert container["securityContext"] == closed
        for bound in ("requests", "limits"):
            assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"][bound])
        names = {volume["name"] for volume in pod.get("volumes", [])} | {"data"}
        assert {mount["name"] for mount in container["volumeMounts"]} <= names


@pytest.mark.parametrize("name", HELM)
def test_the_charts_pods_are_no_less_closed(name):
    values = HELM[name].get("worker") or HELM[name]["server"]
    closed = values["containerSecurityContext"]
    assert (closed["runAsNonRoot"], closed["readOnlyRootFilesystem"], closed["allowPrivilegeEscalation"]) == (
        True,
        True,
        False,
    )
    assert closed["capabilities"] == {"drop": ["ALL"]}
    assert {"requests", "limits"} <= set(values["resources"])
    assert "password" not in json.dumps(HELM[name]).lower()


@pytest.mark.parametrize("name", HELM)
def test_values_fit_what_the_charts_do_themselves(name):
    """Read from PrefectHQ/prefect-helm's templates; no helm here renders them."""
    dockerfile = (INFRA / "docker/Dockerfile").read_text()
    assert "tini=" in dockerfile, "the pods' command is /usr/bin/tini -g -- /opt/prefect/entrypoint.sh prefect ..."
    assert "/opt/prefect/entrypoint.sh" in dockerfile
    values = HELM[name].get("worker") or HELM[name]["server"]
    mounted = {mount["mountPath"] for mount in values.get("extraVolumeMounts", [])}
    assert mounted.isdisjoint({"/tmp", "/home/prefect"}), "the chart mounts its own: a path may be mounted once"
    assert values["podSecurityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, "the namespace is restricted"
    if "migrations" in HELM[name]:
        job = HELM[name]["migrations"]
        assert job["podLabels"] == values["podLabels"] == {"medgan/talks-to": "database"}
        assert job["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize("path", sorted(INFRA.rglob("kustomization.yaml")), ids=lambda path: path.parent.name)
def test_kustomize_finds_what_it_is_told_to_read_and_reads_nothing_from_outside(path):
    told = yaml.safe_load(path.read_text())
    files = [name for generator in told.get("configMapGenerator", []) for name in generator["files"]]
    assert all((path.parent / name).exists() for name in files + told.get("resources", []))
    assert not [name for name in files if ".." in name], "a file from outside of its folder is refused"


@pytest.mark.parametrize("name", PODS)
def test_a_pod_that_hangs_is_noticed(name):
    for container in PODS[name]["containers"]:
        assert {"livenessProbe", "readinessProbe"} <= set(container)


def test_the_prefect_server_is_started_by_what_starts_it_again_when_it_goes_deaf():
    watched = ["python", "-m", "flows", "server", "--host", "0.0.0.0"]  # noqa: S104 - inside its container
    assert COMPOSE["prefect"]["command"] == HELM["prefect-server"]["server"]["args"] == watched
    assert COMPOSE["prefect"]["depends_on"]["postgres"] == {"condition": "service_healthy", "restart": True}


def test_each_pod_sees_its_zones_and_no_other():
    seen = {name: _claims(pod.get("volumes", [])) for name, pod in PODS.items()}
    seen |= {name: _claims(values["worker"]["extraVolumes"]) for name, values in HELM.items() if "worker" in values}
    assert seen == {
        "postgres": set(),
        "dask-scheduler": set(),
        "catalogue": {"published"},
        "metrics": {"pseudonymised", "published"},
        "dask-worker": {"archive", "identified", "pseudonymised", "synthetic"},
        "worker": ZONES,
        "worker-gpu": {"pseudonymised"},
    }


def test_only_those_who_ingest_are_given_the_pseudonym_key():
    text = {
        **{name: json.dumps(pod) for name, pod in PODS.items()},
        **{name: json.dumps(values) for name, values in HELM.items()},
    }
    assert {name for name, pod in text.items() if "pseudonym-key" in pod} == {"dask-worker", "worker"}
    holders = {name for name, service in COMPOSE.items() if "pseudonym_key" in service.get("secrets", [])}
    assert holders == {"worker", "dask-worker", "watch"}


def test_nothing_may_talk_unless_a_policy_says_so():
    policies = [m["spec"] for m in MANIFESTS if m["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    everywhere = [p for p in policies for rule in p.get("egress", []) + p.get("ingress", []) if not rule]
    assert not everywhere, "an empty rule allows everything"
    outside = [b for p in policies for rule in p.get("egress", []) for b in rule["to"] if "ipBlock" in b]
    assert not outside, "nobody reaches the internet"


@pytest.mark.parametrize("name", COMPOSE)
def test_no_service_of_the_one_host_is_writable_privileged_unlimited_or_unpinned(name):
    service = COMPOSE[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "mem_limit" in service
    assert PINNED.fullmatch(service["image"])
    assert not service.get("privileged")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_one_host_keeps_zones_apart_too():
    seen = {name: {v.split(":")[0] for v in service.get("volumes", [])} & ZONES for name, service in COMPOSE.items()}
    assert {name for name, zones in seen.items() if "keys" in zones} == {"worker"}
    assert seen["worker-gpu"] == {"pseudonymised"}
    assert seen["catalogue"] == {"published"}
    assert seen["prefect"] == seen["postgres"] == seen["dask-scheduler"] == set()
    written = [v for v in COMPOSE["catalogue"]["volumes"] + COMPOSE["metrics"]["volumes"] if not v.endswith(":ro")]
    assert not written


def _unit(path: Path) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None)
    unit.read(path)
    return unit


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_starts_what_there_is_and_comes_back(name):
    from flows.__main__ import app

    unit = _unit(UNITS[name])
    program, *words = unit["Service"]["ExecStart"].split()
    assert unit["Install"]["WantedBy"] == "multi-user.target"
    if program.endswith("/prefect"):
        known = {entry["work_pool"]["name"] for entry in DEPLOYED}
        assert words[:2] == ["worker", "start"]
        assert words[words.index("--pool") + 1] in known
    else:
        assert (program, *words[:2]) == ("/opt/medgan/.venv/bin/python", "-m", "flows")
        assert words[2] in {command.callback.__name__ for command in app.registered_commands}


def test_no_unit_is_root_or_writes_outside_of_the_workspace():
    service = _unit(INFRA / "systemd/medgan-.service.d/common.conf")["Service"]
    assert service["User"] == "medgan"
    assert (service["ProtectSystem"], service["ReadWritePaths"]) == ("strict", "/srv/medgan")
    assert (service["NoNewPrivileges"], service["Restart"]) == ("true", "always")


def test_only_the_unit_that_publishes_writes_what_others_read():
    dropped = {f"{path.parent.name}/{path.name}": path for path in (INFRA / "systemd").glob("*.d/*.conf")}
    told = {name: _unit(path)["Service"].get("UMask") for name, path in (UNITS | dropped).items()}
    masks = {name: mask for name, mask in told.items() if mask is not None}
    common, publishes = "medgan-.service.d/common.conf", "medgan-worker.service.d/published.conf"
    assert masks == {common: "0077", publishes: "0022"}
    assert Path(common).name < Path(publishes).name, "systemd reads drop-ins in the order of their names"


def test_the_environment_of_the_units_holds_no_password_and_asks_for_two():
    told = dict(
        line.split("=", 1) for line in (INFRA / "systemd/environment").read_text().splitlines() if line[0] != "#"
    )
    assert told["PREFECT_SERVER_API_AUTH_STRING"] == told["PREFECT_API_AUTH_STRING"] == "medgan:CHANGE-2"
    assert urlsplit(told["PREFECT_API_DATABASE_CONNECTION_URL"]).password == "CHANGE-1"  # noqa: S105 - to be replaced


def test_dask_speaks_tls_everywhere():
    for service in ("dask-scheduler", "dask-worker", "worker"):
        assert COMPOSE[service]["environment"]["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "true"
    for name in ("dask-worker", "dask-scheduler"):
        told = {e["name"]: e.get("value") for e in itertools.chain(*(c["env"] for c in PODS[name]["containers"]))}
        assert told["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "true"


def test_the_certificates_are_ones_that_openssl_verifies_and_only_their_owner_reads_the_key(tmp_path):
    subprocess.run([INFRA / "dask/certificates.sh", tmp_path / "tls"], check=True)
    files = {path.name for path in (tmp_path / "tls").iterdir()}
    assert files == {"ca.pem", "cert.pem", "key.pem"}, "the authority's key is not kept"
    assert stat.S_IMODE((tmp_path / "tls/key.pem").stat().st_mode) == 0o600
    command = ["openssl", "verify", "-CAfile", tmp_path / "tls/ca.pem", tmp_path / "tls/cert.pem"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_where_the_password_goes_in_the_clear_never_leaves_the_cluster_or_the_host():
    from tasks.doctor import stays_inside

    addresses = [HELM[name]["worker"]["selfHostedServerApiConfig"]["apiUrl"] for name in ("worker", "worker-gpu")]
    addresses.append(COMPOSE["worker"]["environment"]["PREFECT_API_URL"])
    assert all(stays_inside(urlsplit(address).hostname) for address in addresses)
    assert not stays_inside("prefect.example.org")
    assert not stays_inside("10.0.0.7")
    assert not stays_inside("2001:db8::7")
    assert stays_inside("::1")


def test_the_board_asks_for_metrics_that_the_exporter_gives():
    from medgan.settings import Zones
    from tasks.metrics import Site

    given = {family.name for family in Site(Zones.under("/nowhere")).collect()}
    board = (INFRA / "grafana/medgan.json").read_text()
    asked = set(re.findall(r"medgan_[a-z_]+", board))
    assert asked
    assert asked <= given
