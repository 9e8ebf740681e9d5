# `make demo` draws, `make test` tests; both set up .venv first and need Python 3.11 and pip only.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Tests compute with one thread, so two processes share them; a file's tests stay together.
PYTEST := -m pytest -q -n 2 --dist loadfile

.PHONY: demo test test-full test-lowest browser check format results plugin-results wheel clean

demo: $(INSTALLED)
	$(BIN)/bdm world demo --out demo

test: $(INSTALLED)
	$(BIN)/python $(PYTEST) -m "not full"

test-full: $(INSTALLED)
	$(BIN)/python $(PYTEST)

# A headless Chromium, for the tests of the page; without one they are skipped.
browser: $(INSTALLED)
	PYTHON=$(BIN)/python tools/install_browser.sh

test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check -c constraints-lowest.txt torch
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check \
		-c constraints-lowest.txt -e ".[train,world,data,serve,ray,dev,browser]"
	.venv-lowest/bin/python $(PYTEST) -m "not full"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Scores the weights in the repository again; trains nothing.
results: $(INSTALLED)
	$(BIN)/bdm evaluate world --language zh --out docs

# Makes the plug-ins and baselines of the world and measures them: hours. It goes on where it was.
plugin-results: $(INSTALLED)
	PYTHON=$(BIN)/python tools/measure_plugins.sh

wheel: $(INSTALLED)
	$(BIN)/python -m build --wheel

# torch first and by itself, so that no resolver picks another build of it.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e ".[train,world,data,serve,ray,dev,browser]"
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest demo dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
