# `make demo` and `make test` do all the set-up themselves, on a machine with Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# constraints.txt pins what is tested; as an environment variable it reaches build environments too (`-c` does not).
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint endurance install clean

help:
	@echo "make demo   train on 5,000 handwritten digits, sample and score them (at most 15 minutes on 2 CPU cores)"
	@echo "make test   lint, types, import contracts and tests"
	@echo "make lint   the first three of these"
	@echo "make endurance  the long tests: kills, cuts and bit flips by the hundred; ARGS='--kills 20' for fewer"
	@echo "make clean  remove the virtual environment and the demo's results"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[demo,dev]"
	@touch $@

demo: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" sh benchmarks/demo.sh

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal

endurance: $(STAMP)
	$(BIN)/python -m pytest tests/endurance $(ARGS)

clean:
	rm -rf $(VENV) runs data samples
