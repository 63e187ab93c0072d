# Everything runs in .venv, which the first target that needs it sets up.
# Another interpreter: make PYTHON=/path/to/python3.13 demo
# Another environment, next to .venv: make VENV=.venv-3.13 PYTHON=/path/to/python3.13 test
# Some of the tests: make test TESTS="tests/app/test_cli_files.py -k compare"

VENV ?= .venv
IS_SUPPORTED := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3 python; do \
	$$name $(IS_SUPPORTED) 2>/dev/null && echo $$name && break; done)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4
RUNTIME := $(VENV)/runtime.stamp
DEV := $(VENV)/dev.stamp
PAGE := $(VENV)/page.stamp

.PHONY: help demo demo-page test test-all test-page bench lint format clean
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(RUNTIME) ## train a small network on a few images and restore others with it
	$(BIN)/python -m examples.demo

demo-page: $(PAGE) ## serve the page to downscale, restore and compare images, and open it in the browser
	$(BIN)/rescale demo --open

test: $(DEV) ## run the tests that take seconds
	$(PYTEST) -m "not slow and not gpu and not browser" $(TESTS)

test-all: $(DEV) ## run every test that this machine can run
	$(PYTEST) -m "not browser" $(TESTS)

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

format: $(DEV) ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove build products and caches (environments and your results stay)
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache .grimp_cache
	find . -path './.venv*' -prune -o -name __pycache__ -exec rm -rf {} +

# The VQGAN is tested against the package taming-transformers-rom1504, which runs without most of its
# declared dependencies: old versions of PyTorch Lightning and others.
# A set-up step writes its stamp last, so an interrupted step is run again.
$(RUNTIME): setup.py pyproject.toml constraints.txt Makefile tools/install_basicsr.py
	@python="$(BIN)/python"; "$$python" -m pip --version >/dev/null 2>&1 || python="$(PYTHON)"; \
	"$$python" $(IS_SUPPORTED) 2>/dev/null || { python="$${python:-python3}"; \
		echo "Python 3.11 or later is required, and $$python is $$("$$python" --version 2>&1)." \
			"Choose another: make VENV=.venv-3.13 PYTHON=/path/to/python3.13" >&2; exit 1; }; \
	[ "$$python" = "$(BIN)/python" ] || { \
		echo "Creating $(VENV) with $$python"; "$$python" -m venv --clear $(VENV); }
	@echo "Installing PyTorch, BasicSR and this project into $(VENV)"
	$(PIP) --quiet setuptools wheel
	$(BIN)/python tools/install_basicsr.py --disable-pip-version-check --quiet
	$(PIP) --no-build-isolation --editable .
	@touch $@

$(DEV): $(RUNTIME)
	@echo "Installing the development tools into $(VENV)"
	$(PIP) --quiet --no-build-isolation --editable '.[dev]'
	$(PIP) --quiet --no-deps taming-transformers-rom1504
	@touch $@

$(PAGE): $(RUNTIME)
	@echo "Installing the dependencies of the page into $(VENV)"
	$(PIP) --quiet --no-build-isolation --editable '.[demo]'
	@touch $@
