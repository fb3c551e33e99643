# Both `make demo` and `make test` make .venv and install what they need where it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable

.PHONY: help demo space test test-matrix test-long audit browser screenshots notebooks bench bench-gpu lint format clean

help:
	@echo "make demo    simulate, prepare, train, score, load and predict: a few minutes on two CPU cores, no network"
	@echo "make space   serve the page to try the model in, on this machine, with the checkpoint of this repository"
	@echo "make test    run the tests"
	@echo "make test-long    kill, fill and fuzz everything: half an hour on two cores; make test-matrix: other versions"
	@echo "make audit   ask for known vulnerabilities of what is installed"
	@echo "make browser install Debian's Chromium, for the tests of the page (they are skipped where there is none)"
	@echo "make screenshots  renew the README's pictures of the page"
	@echo "make notebooks  execute the notebooks and save their outputs: a few minutes on one CPU core"
	@echo "make bench   check and time inference and data on this machine's processor: under ten minutes on two cores"
	@echo "make bench-gpu  the same for training and inference on a GPU, with the environment of python3 on the PATH"
	@echo "make lint    check style and formatting"
	@echo "make format  mend style and formatting"
	@echo "make clean   remove .venv and what the demo wrote"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(INSTALL) ".[train,analysis]"
	@touch $@

$(VENV)/.dev-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(INSTALL) ".[dev]"
	@touch $@ $(VENV)/.demo-installed $(VENV)/.space-installed

demo: $(VENV)/.demo-installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/demo.sh

$(VENV)/.space-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(INSTALL) ".[space]"
	@touch $@

space: $(VENV)/.space-installed
	$(BIN)/python -m space.app

browser:
	command -v chromium || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -qq -y --no-install-recommends chromium; }

screenshots: $(VENV)/.dev-installed
	MACARON_SCREENSHOTS=docs/space $(BIN)/python -m pytest tests/space/test_page.py

test-matrix: $(VENV)/.dev-installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet uv
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks.matrix

test-long: $(VENV)/.dev-installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet atheris
	$(BIN)/python -m benchmarks.faults
	$(BIN)/python -m benchmarks.fuzz

audit: $(VENV)/.dev-installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet pip-audit
	$(BIN)/python -m pip_audit --skip-editable

test: $(VENV)/.dev-installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

notebooks: $(VENV)/.dev-installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.notebooks.execute notebooks/*.ipynb

bench: $(VENV)/.dev-installed
	$(BIN)/python -m benchmarks.cpu

bench-gpu:
	$(PYTHON) -m benchmarks.gpu

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo
