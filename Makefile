# `make demo` and `make test` are all that a newcomer needs; each builds .venv by itself when there is none.
#
#   PYTHON=python3.12        the interpreter that .venv is made with (3.10 to 3.13)
#   TORCH_INDEX_URL=URL      take torch from this package index (a CPU or CUDA build) instead of the ordinary one
#   WORKERS=4                test processes (default: one per core, at most 8)
#   PYTEST_ARGS="-k volume"  further arguments for pytest

PYTHON ?= python3
TORCH_INDEX_URL ?=
WORKERS ?= auto
PYTEST_ARGS ?=

# Relative, so that the repository may lie in a path with spaces, which make's targets can't have.
ifeq ($(OS),Windows_NT)
PY := .venv/Scripts/python.exe
else
PY := .venv/bin/python
endif
INSTALLED := .venv/recokd-installed

DEMO_CASE := hippocampus_053
DEMO_STUDENT := hippocampus-x4

# The long tests come last: a process that has nothing left takes half of what waits for another one.
PYTEST := $(PY) -m pytest -n $(WORKERS) --maxprocesses=8 --dist worksteal
# A test process has been seen to vanish without a word, with whatever test it was at. What failed runs once more,
# in one process: what is wrong fails again.
AGAIN := $(PY) -m pytest -n 0 --last-failed --last-failed-no-failures none

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## segment a sample MRI with the shipped student; results go to demo/
	@$(PY) -c "import slicer" 2>/dev/null && format=seg.nrrd || format=nii.gz; \
	mkdir -p demo && \
	$(PY) -m ReCoKDLib segment ReCoKD/Resources/Students/SampleCases/$(DEMO_CASE)_0000.nii.gz \
	    --student $(DEMO_STUDENT) --output demo/$(DEMO_CASE).$$format \
	    --table demo/$(DEMO_CASE).csv --picture demo/$(DEMO_CASE).png --overwrite

# Each test process keeps to one thread: the processes already fill the cores.
test test-all: export OMP_NUM_THREADS = 1

test: $(INSTALLED) ## run the tests
	$(PYTEST) -m "not slow" $(PYTEST_ARGS) || $(AGAIN) -m "not slow" $(PYTEST_ARGS)

test-all: $(INSTALLED) ## run the tests, the slow ones too
	$(PYTEST) $(PYTEST_ARGS) || $(AGAIN) $(PYTEST_ARGS)

lint: $(INSTALLED) ## check style, format and types
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

# torch and torchvision come first and without their dependencies, which TORCH_INDEX_URL need not hold.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))" || \
	    { echo "ReCoKD needs Python 3.10 to 3.13: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
ifneq ($(TORCH_INDEX_URL),)
	$(PY) -m pip install --no-deps --index-url "$(TORCH_INDEX_URL)" -c constraints.txt torch torchvision
endif
	$(PY) -m pip install --quiet -c constraints.txt -e ".[host,training,bundle,test,dev]"
	@touch $(INSTALLED)
