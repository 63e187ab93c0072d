# Everything runs in .venv, which the first target that needs it sets up.
# Another interpreter: make PYTHON=/path/to/python3.12 demo

IS_SUPPORTED := -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))'
PYTHON ?= $(shell for name in python3.11 python3.12 python3 python; do \
	$$name $(IS_SUPPORTED) 2>/dev/null && echo $$name && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4
RUNTIME := .venv/runtime.stamp
DEV := .venv/dev.stamp
PAGE := .venv/page.stamp

.PHONY: help demo demo-page test test-all test-page bench lint format clean
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(RUNTIME) ## train a small network on a few pictures and restore others with it
	$(BIN)/python -m rescale_app.demo

demo-page: $(PAGE) ## serve the page to shrink, restore and compare pictures, and open it in the browser
	$(BIN)/rescale demo --open

test: $(DEV) ## run the tests that take seconds
	$(PYTEST) -m "not slow and not gpu and not browser"

test-all: $(DEV) ## run every test that this machine can run
	$(PYTEST) -m "not browser"

test-page: $(DEV) $(PAGE) ## test the page and the report in Chromium, which must be installed
	$(PIP) --quiet selenium
	$(BIN)/python -m pytest -m browser

bench: $(RUNTIME) ## measure speed and memory, which takes half an hour; BENCH="--only aidn" takes less
	$(BIN)/python -m benchmarks $(BENCH)

lint: $(DEV) ## check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV) ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove build products and caches (.venv and your results stay)
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache .grimp_cache
	find . -path ./.venv -prune -o -name __pycache__ -exec rm -rf {} +

# The VQGAN is tested against the package taming-transformers-rom1504, which runs without most of what
# it asks for: old versions of PyTorch Lightning and others.
# A stamp is the last thing a set-up step writes, so an interrupted step is run again.
# BasicSR's build imports torch: without build isolation it takes the one that is installed.
$(RUNTIME): setup.py pyproject.toml constraints.txt Makefile
	@$(BIN)/pip --version >/dev/null 2>&1 || { \
		python="$(PYTHON)"; \
		"$$python" $(IS_SUPPORTED) 2>/dev/null || { \
			echo "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.12" >&2; exit 1; }; \
		echo "Making .venv with $$python"; \
		"$$python" -m venv --clear .venv; }
	@echo "Installing PyTorch, BasicSR and this project into .venv"
	$(PIP) cython numpy setuptools torch torchvision wheel
	$(PIP) --quiet --no-build-isolation basicsr
	$(PIP) --quiet --no-build-isolation --editable .
	@touch $@

$(DEV): $(RUNTIME)
	@echo "Installing the development tools into .venv"
	$(PIP) --quiet --no-build-isolation --editable '.[dev]'
	$(PIP) --quiet --no-deps taming-transformers-rom1504
	@touch $@

$(PAGE): $(RUNTIME)
	@echo "Installing what the page needs into .venv"
	$(PIP) --quiet --no-build-isolation --editable '.[demo]'
	@touch $@
