# Everything a fresh machine needs is Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV := .venv
OLDER := .venv-older
BIN := $(VENV)/bin

.PHONY: setup test demo lint format types benchmark lock clean

# The environment is made again whenever the lock file or the project file changes. Its modules are compiled here, as the
# tests start hundreds of processes, also where Python is told to write no bytecode.
$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -m1 '^uv==' requirements.lock | cut -d' ' -f1)"
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

# The tests also drive an older client, which cannot share an environment with the newest one.
$(OLDER)/.ready: requirements-older.lock $(VENV)/.ready
	$(PYTHON) -m venv --clear --without-pip $(OLDER)
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(OLDER)/bin/python requirements-older.lock
	touch $@

setup: $(VENV)/.ready $(OLDER)/.ready

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/pytest -n 4 --dist worksteal

demo: setup
	$(BIN)/python examples/demo.py

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/pyright

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: setup
	$(BIN)/python -m benchmarks.agent

lock: pyproject.toml tests/older-client.in
	$(BIN)/uv pip compile --quiet --universal --all-extras --group dev --generate-hashes --no-header --no-emit-index-url pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --python-version 3.11 tests/older-client.in -o requirements-older.lock

clean:
	rm -rf $(VENV) $(OLDER) .demo
