# make demo    everything from nothing: environment, training on digits, predictions
# make test    the tests, in the same environment
# make check   lint, types, import contracts
# make docs    the site, in site/
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check docs clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/installed
	rm -rf demo
	$(BIN)/plusx train --out demo/run
	$(BIN)/python examples/digit_images.py demo/images
	$(BIN)/plusx predict demo/run demo/images/*.png

test: $(VENV)/installed-dev
	$(BIN)/pytest -n 2 --dist worksteal

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/installed-dev
	$(BIN)/zensical build --clean --strict

clean:
	rm -rf $(VENV) demo site runs build dist
