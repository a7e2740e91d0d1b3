# `make demo` shows the main job on real images, `make test` sets up, lints and tests, `make docs`
# builds the site. Everything lives in .venv.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: demo docs test test-slow test-litert test-mobile lint format clean

demo: $(STAMP)
	$(VENV)/bin/ghostnet demo

docs: $(STAMP)
	$(VENV)/bin/python -m mkdocs build --strict  # with --quiet it would stop at no warning
	@echo "runs/site/index.html"

test: lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadgroup

# What `test` leaves out for its time: second runtimes, methods and forms of what it does check.
test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadgroup -m "slow and not gpu"

# LiteRT's converter wants older packages than the rest (constraints-litert.txt), so it has an environment of its own.
test-litert:
	$(PYTHON) -m venv $(VENV)-litert
	$(VENV)-litert/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-litert.txt -e ".[export,litert,dev]"
	OMP_NUM_THREADS=1 $(VENV)-litert/bin/python -m pytest -p no:anyio tests/deploy tests/cli/test_cli_exported.py  # anyio 4.14 has a plugin that pytest 9.2 warns about

# Core ML's and ExecuTorch's tools go with the versions of the rest, but are many packages.
test-mobile: $(STAMP)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[export,mobile,dev]"
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest tests/deploy tests/cli/test_cli_exported.py -k "coreml or executorch"

lint: $(STAMP)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(STAMP)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# Modules are compiled when they are first imported: to compile all of them takes pip a minute more.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[export,docs,dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) $(VENV)-litert build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
