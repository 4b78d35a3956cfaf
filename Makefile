# The verbs of this project. Each one that needs the environment makes it first.

VENV ?= .venv
PYTHON ?=
TORCH_INDEX ?=
ARGS ?=
DOCKER ?= docker

READY := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup check format test test-gpu run demo image

help:  ## these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

setup: $(READY)  ## .venv with everything, pinned; TORCH_INDEX=address takes torch from that index

check: $(READY)  ## ruff check, ruff format --check, mypy --strict
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

format: $(READY)  ## ruff's fixes and formatting
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

test: $(READY)  ## the whole suite; ARGS="-k hole" passes through
	$(VENV)/bin/pytest $(ARGS)

test-gpu: $(READY)  ## only what needs a CUDA device
	$(VENV)/bin/pytest -m gpu $(ARGS)

run: $(READY)  ## the whole service on 127.0.0.1:8000; Ctrl-C stops it
	@$(VENV)/bin/inpaint serve --embedded $(ARGS)

demo: $(READY)  ## restore a real photograph; prints where the picture lies
	@$(VENV)/bin/inpaint demo $(ARGS)

image:  ## both container images; DOCKER=podman or buildah works too
	$(DOCKER) build -f docker/service.Dockerfile -t inpaint-service $(ARGS) .
	$(DOCKER) build -f docker/worker.Dockerfile -t inpaint-worker --build-arg TORCH_INDEX=$(TORCH_INDEX) $(ARGS) .

# Nothing but wheels, so no compiler; setuptools is pinned too, so the build is not isolated. torch
# goes first and alone when it has an index of its own, which need not hold the rest.
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --only-binary :all: -c constraints.txt

$(READY): pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(if $(TORCH_INDEX),$(INSTALL) --no-deps --index-url $(TORCH_INDEX) torch)
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation -e '.[dev,demo]'
	@touch $@

$(VENV)/bin/pip:
	@for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  $$python -c 'import ensurepip, venv' 2>/dev/null || { missing="$$python"; continue; }; \
	  echo "setup: $(VENV) from $$($$python --version) ($$python)"; \
	  exec $$python -m venv $(VENV); \
	done; \
	if [ -n "$$missing" ]; then \
	  echo "setup: $$missing lacks the venv module; Debian and Ubuntu: apt install python3-venv"; \
	else \
	  echo "setup: no Python 3.11 or later found; install one, or name it: make setup PYTHON=path"; \
	fi >&2; exit 1
