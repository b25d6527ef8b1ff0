# make demo and make test do all the set-up on a fresh machine; everything is installed into .venv.

PYTHON ?= python3
# Which torch, and from which package index (empty: the one pip is configured with).
# CUDA or CPU builds by choice: make demo TORCH_INDEX=https://download.pytorch.org/whl/cu130   (or .../whl/cpu)
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
# Where the demo writes.
DEMO ?= scmap-demo
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORKFLOW := $(VENV)/.workflow
REQUEST := $(VENV)/.torch-request
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint types unit slow lock clean FORCE

help:
	@echo 'make demo    install into .venv, run the demo, show its result'
	@echo 'make test    install into .venv, then lint, types and tests'
	@echo 'make slow    the tests that take long'
	@echo 'make lock    write constraints.txt anew from a fresh install'
	@echo 'make clean   remove .venv, caches and the demo output'

venv: $(INSTALLED)

# Holds the torch asked for, so that another TORCH or TORCH_INDEX installs again and the same one does not.
$(REQUEST): FORCE
	@test -x $(BIN)/pip || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo 'scmap needs Python 3.11 or newer: make ... PYTHON=python3.11' >&2; exit 1; }; \
	  $(PYTHON) -m venv $(VENV); }
	@echo '$(TORCH) $(TORCH_INDEX)' | cmp -s - $@ || echo '$(TORCH) $(TORCH_INDEX)' > $@

# Python compiles the few modules it imports; pip would compile all of them, which takes longer than the rest.
# Torch first and alone: whichever build it is, the constraints of the second step then hold on to it.
$(INSTALLED): $(REQUEST) pyproject.toml constraints.txt
	$(PIP) install --quiet --no-compile $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	@$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
	  >> $(VENV)/constraints.txt
	$(PIP) install --quiet --no-compile --constraint $(VENV)/constraints.txt --editable '.[dev]'
	@touch $@

# Snakemake, which runs examples/Snakefile in the tests; the demo does without.
$(WORKFLOW): $(INSTALLED)
	$(PIP) install --quiet --no-compile --constraint $(VENV)/constraints.txt --editable '.[dev,workflow]'
	@touch $@

demo: venv
	PATH="$(abspath $(BIN)):$$PATH" bash examples/demo.sh $(DEMO)

test: lint types unit

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

unit: $(WORKFLOW)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

slow: $(WORKFLOW)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

# The versions of a fresh, unconstrained install, without build tools, torch's local suffix and this package itself.
LOCK := .venv-lock
lock:
	rm -rf $(LOCK)
	$(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	echo '$(TORCH)' > $(LOCK)/torch.txt
	$(LOCK)/bin/python -m pip install --quiet --constraint $(LOCK)/torch.txt '.[dev,workflow]'
	{ echo '# Written by `make lock`: the versions that `make demo` and `make test` install.'; \
	  $(LOCK)/bin/python -m pip list --format=freeze \
	    | sed 's/+[A-Za-z0-9.]*$$//' \
	    | grep -viE '^(pip|setuptools|wheel|scmap-cli|triton|nvidia-[^=]*|cuda-[^=]*)==' \
	    | LC_ALL=C sort -f; } > constraints.txt
	rm -rf $(LOCK)

clean:
	rm -rf $(VENV) $(LOCK) $(DEMO) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find scmap_cli tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
