# Needs Python 3.11+ and make. Every target makes .venv itself, from constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
.DEFAULT_GOAL := help
.PHONY: help install demo test survive check up model bench studies

help:  ## this list
	@echo "make install   make .venv with the esd command in it"
	@echo "make demo      erase three concepts from the bundled base model, measure, register, approve, publish"
	@echo "make up        Prefect, MLflow and S3 with their UIs and a worker; stops with Ctrl-C"
	@echo "make test      run the tests (needs no root; browser and PostgreSQL tests skip where those are missing)"
	@echo "make survive   kill and stop servers, workers and engines in the middle of nights (20 minutes)"
	@echo "make check     formatting, lint, types, import contracts"
	@echo "make bench     what an optimizer step costs, against a plain loop that does what the authors' code does (a quarter of an hour)"
	@echo "make studies   every table and picture of docs/studies.md, into var/studies (hours of CPU the first time)"
	@echo "make model     train the bundled base model again from scratch (hours of CPU)"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else \
	  f"Python 3.11 or newer is needed, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11")'
	@echo "==> .venv: making it with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "==> .venv: installing the packages of constraints.txt (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "torch==2.13.0"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@
	@echo "==> .venv: ready, the command is $(BIN)/esd"

demo: $(STAMP)
	@echo "==> demo: erasing the concepts of infra/lists/demo.yaml"
	@$(BIN)/esd run infra/lists/demo.yaml

up: $(STAMP)
	@echo "==> up: starting S3, MLflow, Prefect and a worker"
	@$(BIN)/python -m infra.local_stack

test: $(STAMP)
	@echo "==> test: unit, integration with real local servers, browser"
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(PYTEST)

survive: $(STAMP)
	@echo "==> survive: nights with real servers and workers, whose processes are killed and stopped"
	@$(BIN)/python -m pytest tests/survival -m survival $(PYTEST)

check: $(STAMP)
	@echo "==> check: formatting"
	@$(BIN)/ruff format --check .
	@echo "==> check: lint"
	@$(BIN)/ruff check .
	@echo "==> check: types"
	@$(BIN)/mypy
	@echo "==> check: import contracts"
	@$(BIN)/lint-imports

bench: $(STAMP)
	@echo "==> bench: the miniature, then a random U-Net of Stable Diffusion 1.4's sizes; needs 11 GB of memory, 16 GB of disk"
	@$(BIN)/python -m benchmarks.cost $(BENCH)

studies: $(STAMP)
	@echo "==> studies: the paper's experiments on the miniature, into var/studies; continues when stopped"
	@$(BIN)/esd study implied --out var/studies/implied
	@$(BIN)/esd study styles --images 12 --others 4 --out var/studies/styles
	@$(BIN)/esd study objects --images 12 --others 4 --out var/studies/objects
	@$(BIN)/esd study eta --images 12 --others 2 --out var/studies/eta
	@$(BIN)/esd study baselines --concepts sun --images 24 --others 2 --out var/studies/baselines
	@$(BIN)/esd study generality --concepts house --also-known-as cottage --images 24 --others 4 --out var/studies/generality
	@$(BIN)/esd study quality --concepts sun --images 12 --others 6 --out var/studies/quality

model: $(STAMP)
	@echo "==> model: training the miniature from scratch into var/miniature; this takes hours, and continues when stopped"
	@$(BIN)/python -m esd_core.miniature.train --out var/miniature
