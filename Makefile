# Everything happens in .venv, from locked versions; a second call installs nothing.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DBT_VENV := .venv-dbt
DESCRIPTIONS := docs/data-dictionary.md docs/external-tables-bigquery.sql \
	dbt/models/staging/sources.yml dbt/models/described.yml dbt/macros/plausible.sql
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --require-virtualenv
UV := $(BIN)/uv
INSTALL = $(UV) pip install --quiet --python $(BIN)/python --require-hashes
# Packages of pyproject.toml's extras and groups, in the versions of one lock.
INSTALL_MORE = $(INSTALL) --constraint requirements-all.lock --requirement pyproject.toml
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url \
	--upgrade
AZURITE := $(VENV)/azurite/node_modules/.bin/azurite-blob
AXE := $(VENV)/axe/node_modules/axe-core/axe.min.js
ARGS ?=
export PYTHONPATH := flows
# Where PIP_USER is set (Gitpod), pip would install outside of the environment and refuse.
export PIP_USER := 0

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: $(VENV)/.run ## One month into the data lake: a sample, or ARGS="--color green --year 2024 --month 1"
	@$(if $(ARGS),,TLC_HOME=data/sample )$(BIN)/python flows/etl_web_to_gcs.py $(or $(ARGS),--source sample --year 2024 --month 1)

.PHONY: server
server: $(VENV)/.run ## A Prefect server that only this clone's scripts and workers may use; its UI is at http://127.0.0.1:4200
	@$(BIN)/python -m nyc_tlc.runs.own_server

.PHONY: test
test: $(VENV)/.dev ## The whole test suite
	@# Without the caches of compiled code, which a shell can turn off, it takes half a minute more.
	@# Three processes on two cores: the tests wait for a third of their time.
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 3 --dist loadscope --no-loadscope-reorder $(ARGS)

.PHONY: dbt
dbt: $(DBT_VENV)/.ready ## dbt in an environment of its own, for flows/transform.py

.PHONY: dbt-docs
dbt-docs: $(VENV)/.run $(DBT_VENV)/.ready ## The models' documentation as one page, dbt/static_index.html in TLC_HOME
	@$(BIN)/python -m nyc_tlc.runs.dbt docs generate --static

.PHONY: browser
browser: ## What the tests of the pages need: Chromium by apt where it is missing (Debian, as root), axe-core by npm
	@if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; \
		else echo "there is no Chromium with its driver, so the tests of the pages are skipped"; fi; \
	fi
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(AXE); else echo "there is no npm"; fi

.PHONY: azurite
azurite: ## Microsoft's emulator for the tests of lakes on Azure, by npm; without it they are skipped
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(AZURITE); else echo "there is no npm"; fi

.PHONY: kcat
kcat: ## A consumer for the tests of replays, by apt where it is missing (Debian, as root); without it they are skipped
	@if ! command -v kcat >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends kcat >/dev/null; \
		else echo "there is no kcat"; fi; \
	fi

.PHONY: containers
containers: ## What torture builds and runs the image with, by apt (Debian, as root)
	@apt-get update -qq && apt-get install -y -qq --no-install-recommends buildah podman runc catatonit debootstrap >/dev/null

.PHONY: torture
torture: $(VENV)/.dev $(DBT_VENV)/.ready ## What takes an hour, or ARGS=tests/torture/test_kills.py: kills, fuzzers, lost machines, models by dbt, the image
	@PYTHONPATH=flows:tests $(BIN)/python -m pytest -p torture.results -m torture $(ARGS)

.PHONY: check
check: $(VENV)/.dev ## Lint, types, docs in step
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@said="$$($(BIN)/lint-imports --no-cache)" || { echo "$$said"; exit 1; }
	@$(BIN)/python -m nyc_tlc.descriptions $(VENV)/descriptions
	@for file in $(DESCRIPTIONS); do diff $$file $(VENV)/descriptions/$$file \
		|| { echo "error: $$file is not what the contracts say; run make docs"; exit 1; }; done

.PHONY: docs
docs: $(VENV)/.dev ## Write the dictionary, dbt's sources and the external tables from the contracts, and the reference
	@$(BIN)/python -m nyc_tlc.descriptions .
	@$(BIN)/python docs/reference.py docs/reference.md

.PHONY: notebook
notebook: $(VENV)/.dev ## Run docs/first-hour.ipynb over sample months and keep what it shows
	@$(BIN)/python docs/run_notebook.py

.PHONY: format
format: $(VENV)/.dev ## Put the code into the house's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: bench
bench: $(VENV)/.bench ## Speed and memory against what else there is (minutes); writes tests/benchmarks/RESULTS.md
	@PYTHONPATH=flows:tests $(BIN)/python tests/benchmarks/bench.py $(ARGS)

.PHONY: extra
extra: $(VENV)/.run ## What is optional: make extra NAME=aws, azure, dask, kafka, mcp, notebook, openlineage or ray
	@$(INSTALL_MORE) --extra $(NAME)

.PHONY: lock
lock: $(UV) ## Lock the newest versions pyproject.toml allows
	echo uv | $(COMPILE) - --output-file requirements-install.lock
	$(COMPILE) pyproject.toml --output-file requirements.lock
	$(COMPILE) --constraint requirements.lock --all-extras --group dev --group bench pyproject.toml \
		--output-file requirements-all.lock
	$(COMPILE) dbt/requirements.in --output-file requirements-dbt.lock

.PHONY: bom
bom: ## A software bill of materials of the image's packages (CycloneDX), from requirements.lock
	@$(PYTHON) docker/bill_of_materials.py requirements.lock

.PHONY: clean
clean: ## Remove the environment and caches, not the data
	rm -rf $(VENV) $(DBT_VENV) .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@for python in $(PYTHON) python3.13 python3.12 python3.11; do \
		if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
			$$python -m venv $(VENV) && exit 0; \
		fi; \
	done; \
	echo "error: Python 3.11, 3.12 or 3.13 is needed and $(PYTHON) is $$($(PYTHON) -V 2>&1); set PYTHON=…" >&2; exit 1

# pip installs uv, from hashes like all else; uv installs in seconds what takes pip a minute.
$(UV): requirements-install.lock | $(BIN)/python
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(PIP) install --require-hashes -r requirements-install.lock
	@touch $@

$(VENV)/.run: requirements.lock $(UV)
	@echo "installing the locked versions into $(VENV) (once)"
	@$(INSTALL) --requirement requirements.lock
	@sh docker/prune.sh $(VENV)/lib/python3.*/site-packages
	@touch $@

$(VENV)/.dev: requirements-all.lock $(VENV)/.run
	@echo "installing the tools for tests and checks"
	@$(INSTALL_MORE) --extra aws --extra azure --extra kafka --extra mcp --extra openlineage --extra dask --group dev
	@touch $@

$(VENV)/.bench: requirements-all.lock $(VENV)/.dev
	@echo "installing what is measured against"
	@$(INSTALL_MORE) --group bench
	@touch $@

$(DBT_VENV)/.ready: requirements-dbt.lock $(UV)
	@echo "installing dbt into $(DBT_VENV) (once)"
	@$(BIN)/python -m venv --without-pip $(DBT_VENV)
	@$(UV) pip install --quiet --python $(DBT_VENV)/bin/python --require-hashes -r requirements-dbt.lock
	@touch $@

$(AZURITE):
	@npm install --silent --no-audit --no-fund --prefix $(VENV)/azurite azurite@3.35.0

$(AXE):
	@npm install --silent --no-audit --no-fund --prefix $(VENV)/axe axe-core@4.10.3
