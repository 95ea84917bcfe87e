# `make demo` and `make test` set themselves up: the first run makes .venv and installs constraints.txt's versions.
# On Linux without a GPU, spare yourself torch's CUDA libraries (several GB):
#   make demo PIP_FLAGS='--extra-index-url https://download.pytorch.org/whl/cpu'

PYTHON ?= python3
PIP_FLAGS ?=
PYTEST_FLAGS ?= -n auto --dist loadfile
BIN := .venv/bin
READY := .venv/.ready
READY_DEV := .venv/.ready-dev

.PHONY: demo test lint fmt docs clean

demo: $(READY)  ## train a ladder, forecast, train the target, score the forecast
	$(BIN)/windtunnel run studies/first_flight/study.py --store runs/first_flight

test: lint  ## the whole suite; tests that need a GPU are skipped where there is none
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(READY_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

fmt: $(READY_DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY_DEV)  ## the site in build/site; a broken link fails it
	$(BIN)/python docs/build.py

clean:  ## everything that make made; stores of runs are kept
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find windtunnel tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"windtunnel needs Python 3.11 or newer; this is {sys.version.split()[0]}. Give another one: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[train]'
	@touch $@

$(READY_DEV): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[train,hf,bayes,figures,live,bridges,docs,dev]'
	@touch $@
