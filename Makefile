# Everything here sets up what it needs: a virtual environment in .venv, with a real Redis for the tests.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Of the tests, which wait for more than they compute.
PROCESSES ?= 4

.PHONY: demo test chaos screenshots lint types bench clean

demo: .venv/.demo
	$(BIN)/python examples/demo.py

test: .venv/.test
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadgroup --no-loadscope-reorder

# SEED repeats a run that has printed one.
chaos: .venv/.test
	cd tests && ../$(BIN)/python -m chaos --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

# Of the dashboard, for eyes; needs a Chromium on the PATH.
screenshots: .venv/.test
	cd tests && ../$(BIN)/python -m dashboard.screenshots ../var/screenshots

lint: .venv/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.lint
	$(BIN)/mypy

bench: .venv/.bench
	$(BIN)/python -m bench

clean:
	rm -rf .venv build dist var .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# pip has installed dependency groups since 25.1; older ones come with Python 3.11.
.venv/.pip:
	$(PYTHON) -m venv .venv || { $(PYTHON) -m pip install --user virtualenv && $(PYTHON) -m virtualenv .venv; }
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	touch $@

.venv/.%: .venv/.pip pyproject.toml
	$(BIN)/python -m pip install --quiet --editable . --group $*
	touch $@
