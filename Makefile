# Horde Commons. `make` lists the targets; all that they make stays in this folder.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& command -v $$p && break; done)
VENV := .venv
PY := $(VENV)/bin/python
REQ := requirements
CDK := JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION=20,21,23 node_modules/.bin/cdk
DONE := $(VENV)/stamps
CLIENTS := build/clients-venv
export PYTHONPATH := functions:.
export CDK_DISABLE_CLI_TELEMETRY := true

.PHONY: help setup tools demo grid up down test check fuzz crash lock synth deploy clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: setup ## four requests through the whole path, on this machine; AUTH=1 enforces IAM
	@$(PY) -m infra.local.demo

grid: setup ## the README's grid of 24 prompts anew, drawn by way of the local cloud
	@$(PY) -m infra.local.readme_grid

up: setup ## the whole cloud on this machine until Ctrl-C; PORT=8080, AUTH=1 enforces IAM
	@$(PY) -m infra.local.up

down: ## end what a killed demo or up has left
	@[ ! -x $(PY) ] || $(PY) -m infra.local.down

test: setup ## everything: format, lint, types, all tests with the local cloud
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest

check: setup ## the fast part of test
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -n 2 -m 'not slow and not e2e'

fuzz: setup ## the API against its description and the rules, FUZZ=1000 examples for each operation
	FUZZ=$(or $(FUZZ),1000) $(PY) -m pytest -n 2 -v tests/flows/test_api.py tests/flows/test_fuzz.py \
		tests/flows/test_machine.py

crash: setup ## every flow cut at every call, and what is left proven; FLOWS='share sweep' for some
	@$(PY) -m tests.support.crashtable $(FLOWS)

synth: setup ## the CloudFormation template, into cdk.out/
	$(CDK) synth --quiet

deploy: setup ## to the AWS account of your credentials; STAGE=name for settings/name.json
	$(CDK) deploy $(if $(STAGE),-c stage=$(STAGE))

setup: tools $(DONE)/torch $(DONE)/node $(DONE)/layer $(CLIENTS)/stamp ## what all the others need; nothing where nothing changed

clean: down ## remove what was made, but for .venv and node_modules
	rm -rf build cdk.out .local demo-images .mypy_cache .ruff_cache .pytest_cache .hypothesis

# --- how setup works: a stamp for each step; noise is shown only where a step fails ---------------

QUIETLY = log=$$(mktemp); if $(1) >$$log 2>&1; then rm -f $$log; \
	else cat $$log; rm -f $$log; echo 'failed: $(2)' >&2; exit 1; fi

tools:
	@[ -n "$(PYTHON)" ] || { echo 'Python 3.11 or newer with venv is needed (python3-venv)' >&2; exit 1; }
	@command -v npm >/dev/null || { echo 'Node.js 20 or newer with npm is needed' >&2; exit 1; }
	@node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' \
	|| { echo "Node.js 20 or newer is needed, not $$(node --version)" >&2; exit 1; }

# pip only brings uv, which is several times as fast for the rest.
$(DONE)/venv: $(REQ)/uv.txt
	@echo "setup: a virtual environment with $(PYTHON)"
	@$(call QUIETLY,$(PYTHON) -m venv $(VENV),venv)
	@$(call QUIETLY,$(PY) -m pip install --disable-pip-version-check --require-hashes -r $(REQ)/uv.txt,uv)
	@mkdir -p $(DONE) && touch $@

$(DONE)/dev: $(DONE)/venv $(REQ)/dev.txt
	@echo 'setup: Python packages'
	@$(call QUIETLY,$(VENV)/bin/uv pip install --python $(PY) --no-deps --require-hashes -r $(REQ)/dev.txt,$(REQ)/dev.txt)
	@touch $@

# By pip: uv does not find the CPU build everywhere. Where it is not to be had, the CUDA build draws
# on a CPU as well, but it is several gigabytes.
$(DONE)/torch: $(DONE)/dev $(REQ)/torch-cpu.txt $(REQ)/torch.txt
	@echo 'setup: torch'
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		-r $(REQ)/torch-cpu.txt 2>/dev/null \
	|| { echo 'setup: no CPU build of torch here; taking the CUDA build (gigabytes)'; \
		$(call QUIETLY,$(PY) -m pip install --disable-pip-version-check --require-hashes -r $(REQ)/torch.txt,torch); }
	@touch $@

$(DONE)/node: package.json package-lock.json | $(DONE)/venv
	@echo 'setup: the AWS CDK, a Horde client of npm'
	@$(call QUIETLY,npm ci --no-audit --no-fund,npm ci)
	@touch $@

$(DONE)/layer: $(DONE)/dev $(DONE)/node $(REQ)/lambda.txt layers/build.py
	@$(PY) -m layers.build host
	@touch $@

# In an environment of their own: they bring what this project does not want beside its own packages.
$(CLIENTS)/stamp: $(DONE)/venv $(REQ)/clients.txt
	@echo "setup: other people's Horde clients, for the tests"
	@$(call QUIETLY,$(VENV)/bin/uv venv --clear --python $(PY) $(CLIENTS),venv)
	@$(call QUIETLY,$(VENV)/bin/uv pip install --python $(CLIENTS)/bin/python --no-deps --require-hashes -r $(REQ)/clients.txt,$(REQ)/clients.txt)
	@touch $@

LOCK = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --override $(REQ)/overrides.in

lock: $(DONE)/venv ## lock requirements/*.in anew
	$(LOCK) --output-file $(REQ)/uv.txt $(REQ)/uv.in
	$(LOCK) --output-file $(REQ)/dev.txt $(REQ)/dev.in
	for name in lambda worker; do $(LOCK) --constraints $(REQ)/dev.txt \
		--output-file $(REQ)/$$name.txt $(REQ)/$$name.in || exit 1; done
	$(LOCK) --output-file $(REQ)/torch.txt $(REQ)/torch.in
	$(LOCK) --override $(REQ)/clients-overrides.in --output-file $(REQ)/clients.txt $(REQ)/clients.in
