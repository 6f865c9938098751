# The doors that people and CI both use. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= .demo
WORKSPACE := $(DEMO)/workspace
RADIOGRAPHS := tests/samples/pneumoniamnist/pneumoniamnist.npz

.DEFAULT_GOAL := help
.PHONY: help install demo test test-servers test-extras check audit bench clean

help:          ## list the doors
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(VENV)/.installed   ## make .venv with the pinned set

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("medgan needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[platform,dev]'
	@touch $@

$(DEMO)/archive/.built: medgan/archive/phantom.py | $(VENV)/.installed
	$(BIN)/medgan phantom $(DEMO)/archive --radiographs $(RADIOGRAPHS)
	@touch $@

$(WORKSPACE)/keys/pseudonym.key: | $(VENV)/.installed
	$(BIN)/medgan key new $@

demo: $(DEMO)/archive/.built $(WORKSPACE)/keys/pseudonym.key   ## a DICOM archive becomes the next published version
	$(BIN)/python -m flows nightly --archive $(DEMO)/archive --workspace $(WORKSPACE) --site deployments/sites/demo.yaml

test: $(VENV)/.installed   ## the tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup --ignore tests/servers

test-servers: $(VENV)/.installed   ## the tests beside real servers: PostgreSQL, Prefect, Dask, S3, nginx, a PACS
	$(BIN)/python -m pytest tests/servers

test-extras: $(VENV)/.installed   ## install the extras `board` and `opinion`, and test them
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[board,opinion]'
	$(BIN)/python -m pytest tests/unit/gan/test_board.py tests/unit/quality/test_outside.py

check: $(VENV)/.installed   ## ruff, mypy, import contracts, infra by schema
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec --quiet infra/compose.yaml
	$(BIN)/kubernetes-validate --strict --quiet $(filter-out %/kustomization.yaml,$(wildcard infra/kubernetes/*.yaml))
	$(BIN)/hadolint infra/docker/Dockerfile

audit:         ## unsafe settings in infra/, and known vulnerabilities of the pinned set (asks a database on the internet)
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check checkov==3.3.30 pip-audit==2.10.1
	.venv-audit/bin/checkov --quiet --compact --directory infra --framework kubernetes dockerfile secrets
	.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

bench: $(VENV)/.installed   ## speed and quality, as ratios on this machine
	$(BIN)/python -m tests.bench

bench-%: $(VENV)/.installed   ## one room's benchmarks: bench-deid, bench-gan, bench-loader, bench-privacy, ...
	$(BIN)/python -m tests.bench $*

clean:         ## forget the demo (its archive, keys and releases)
	rm -rf $(DEMO)
