# Everything a fresh machine needs is Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup test demo lint format types benchmark lock clean

# The environment is made again whenever the lock file or the project file changes.
$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -m1 '^uv==' requirements.lock | cut -d' ' -f1)"
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

setup: $(VENV)/.ready

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/pytest -n 2 --dist worksteal

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
	$(BIN)/python -m benchmarks.throughput

lock: pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --all-extras --group dev --generate-hashes --no-header --no-emit-index-url pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .demo
