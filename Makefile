# `make demo` and `make test` set up everything they need; they require only Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# constraints.txt pins the tested versions. The environment variable also applies to build environments; `-c` does not.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The tests start hundreds of processes: each would compile the modules that it imports again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo demo-color test test-all lint docs endurance install clean

help:
	@echo "make demo       train on 5,000 handwritten digits, sample and evaluate (at most 15 minutes on 2 CPU cores)"
	@echo "make demo-color the same in color: 3,391 emoji at 64x64 (a predicted 65 minutes on 2 CPU cores; needs npm, or EMOJI=FILE.tgz)"
	@echo "make test       run lint, type checks, import contracts and tests"
	@echo "make test-all   run also the tests that are marked as slow, as CI does"
	@echo "make lint       run lint, type checks and import contracts"
	@echo "make docs       build the documentation site in site/"
	@echo "make endurance  run the long fault-injection tests: hundreds of kills, truncations and bit flips; ARGS='--kills 20' for fewer"
	@echo "make clean      remove .venv, runs, data and samples"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[demo,dev]"
	@touch $@

demo: $(STAMP)
	PATH="$(abspath $(BIN)):$$PATH" sh benchmarks/demo.sh

demo-color: $(STAMP)
	PATH="$(abspath $(BIN)):$$PATH" sh benchmarks/demo_color.sh

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-all: test
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

endurance: $(STAMP)
	$(BIN)/python -m pytest tests/endurance $(ARGS)

clean:
	rm -rf $(VENV) runs data samples site
