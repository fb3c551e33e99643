# Targets create .venv and install missing packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --constraint constraints.txt --editable
LOCKED := $(shell $(PYTHON) -c 'import platform, sys; print(sys.version_info >= (3, 11) and (platform.system(), platform.machine()) == ("Linux", "x86_64"))')

.PHONY: help demo space test test-all test-stress lock audit browser screenshots notebooks bench bench-gpu lint format clean

help:
	@echo "make demo    simulate, prepare, train, score, load and predict: a few minutes on two CPU cores, no network"
	@echo "make space   serve the demo on this machine with the repository's checkpoint"
	@echo "make test    run the quick tests: minutes on two cores, no network, no browser"
	@echo "make test-all     also test several processes, notebooks, the demo in a browser, malicious files and the checkpoint's figures"
	@echo "make test-stress  test kills, full disks, invalid input and other versions: an hour or more, needs network"
	@echo "make lock    write requirements-test.txt, the hashes of the packages in constraints.txt"
	@echo "make audit   check installed packages for known vulnerabilities"
	@echo "make browser install Debian's Chromium for the browser tests, which are skipped without it"
	@echo "make screenshots  update the README's pictures of the demo"
	@echo "make notebooks  execute the notebooks and save their outputs: a few minutes on one CPU core"
	@echo "make bench   check and time inference, training and data on this machine's processor: ten minutes on two cores"
	@echo "make bench-gpu  check and time training and inference on a GPU, with the environment of python3 on the PATH"
	@echo "make lint    check style and formatting"
	@echo "make format  fix style and formatting"
	@echo "make clean   remove .venv and the demo's output"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(INSTALL) ".[train,analysis]"
	@touch $@

# Test packages are checked against hashes, except torch, whose builds differ between machines.
$(VENV)/.dev-installed: pyproject.toml constraints.txt requirements-test.txt | $(BIN)/python
	@echo "installing into $(VENV) (a few minutes the first time)"
ifeq ($(LOCKED),True)
	$(PIP) install --no-deps --require-hashes --requirement requirements-test.txt
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(PIP) check
else
	$(INSTALL) ".[dev]"
endif
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

test-stress: $(VENV)/.dev-installed
	$(PIP) install uv
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/stress

# Does not depend on .dev-installed: an old lock may lack new packages of constraints.txt.
lock: | $(BIN)/python
	$(PIP) install uv
	$(BIN)/uv pip compile constraints.txt --quiet --no-deps --universal --python-version 3.11 --generate-hashes \
		--no-emit-package torch --no-annotate --custom-compile-command "make lock" --output-file requirements-test.txt

audit: $(VENV)/.dev-installed
	$(PIP) install pip-audit
	$(BIN)/python -m pip_audit --skip-editable

test: $(VENV)/.dev-installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/.dev-installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

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
