# Horde Commons. `make` lists the targets; all that they make stays in this folder. Each sets up what
# it needs (infra/local/setup.py): PYTHON=python3.13 chooses the Python, TORCH=cpu or cuda the build.
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV ?= .venv
PY := $(VENV)/bin/python
SETUP = @VENV=$(VENV) sh infra/local/setup.sh
CDK := JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION=20,21,23 node_modules/.bin/cdk
FAST := 'not slow and not lengthy and not e2e'
export PYTHONPATH := functions:.
export CDK_DISABLE_CLI_TELEMETRY := true
# Without bytecode, each process of a run compiles every module anew: half of its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo grid dataset up down test check test-functions fuzz crash mutate bench cost approve lock lockcheck synth deploy clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

demo: ## five requests through the whole path, on this machine; AUTH=1 enforces IAM
	$(SETUP) demo
	@$(PY) -m infra.local.demo

grid: ## the README's grid of 24 prompts anew, drawn by way of the local cloud
	$(SETUP) demo
	@$(PY) -m infra.local.readme_grid

dataset: ## 1,000 images from request to release, download and every reader; IMAGES=60 for fewer
	$(SETUP) dataset
	@$(PY) -m infra.local.dataset

up: ## the whole cloud on this machine until Ctrl-C; PORT=8080, AUTH=1 enforces IAM, VOLUME=folder of models
	$(SETUP) demo
	@$(PY) -m infra.local.up

down: ## end what a killed demo or up has left
	@[ ! -x $(PY) ] || $(PY) -m infra.local.down

test: ## everything: format, lint, types, all tests with the local cloud
	$(SETUP) test
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -n 2 -m 'not e2e'
	$(PY) -m pytest -m e2e

check: ## the fast part of test
	$(SETUP) check
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -n 2 -m $(FAST)

test-functions: ## the fast tests of functions and stack, without torch
	$(SETUP) functions
	$(PY) -m pytest -n 2 -m $(FAST) tests/unit tests/flows tests/infra

fuzz: ## the API against its description and the rules, FUZZ=1000 examples for each operation
	$(SETUP) functions
	FUZZ=$(or $(FUZZ),1000) $(PY) -m pytest -n 2 -v tests/flows/test_api.py tests/flows/test_fuzz.py \
		tests/flows/test_machine.py

crash: ## every flow cut at every call, and what is left proven; FLOWS='share sweep' for some
	$(SETUP) functions
	@$(PY) -m tests.support.crashtable $(FLOWS)

mutate: ## plant one-line bugs in rules and store, list what no test sees; FILES='a.py b.py' BUDGET=600
	$(SETUP) functions
	@nice $(PY) -m tests.mutation $(if $(BUDGET),--budget $(BUDGET)) $(if $(JOBS),--jobs $(JOBS)) $(FILES)

bench: ## the goals' rows measured in under 8 minutes, into docs/performance.md; ROWS='cpu calls' for some
	$(SETUP) check
	@$(PY) -m tests.bench bench $(ROWS)

cost: ## what a request, an image and a month cost, with every input named, into docs/performance.md
	$(SETUP) functions
	@$(PY) -m tests.bench cost

approve: ## approve what flows and the store ask of DynamoDB now; read the diff of tests/flows/approved/
	$(SETUP) functions
	@rm -f tests/flows/approved/rooms.txt
	@$(PY) -m tests.support.approved
	@APPROVE=1 $(PY) -m pytest tests/flows/test_room_calls.py

synth: ## the CloudFormation template, into cdk.out/
	$(SETUP) deploy
	$(CDK) synth --quiet

deploy: ## to the AWS account of your credentials; STAGE=name for settings/name.json
	$(SETUP) deploy
	$(CDK) deploy $(if $(STAGE),-c stage=$(STAGE))

setup: ## all that any target needs; nothing where nothing changed
	$(SETUP) test

lock: ## lock the groups of pyproject.toml anew, in requirements/
	$(SETUP) lock
	$(PY) -m infra.local.locks lock

lockcheck: ## resolve every lock for each Python and platform, from wheels alone
	$(SETUP) lock
	$(PY) -m infra.local.locks check

clean: down ## remove what was made, but for .venv and node_modules
	rm -rf build cdk.out .local demo-images .mypy_cache .ruff_cache .pytest_cache .hypothesis
