# Every target makes what it needs; nothing has to be installed first but Python 3.11 or newer. Bytecode is compiled when
# a module is first imported, as most modules of torch never are, and kept whatever the shell says: without it every
# process of the tests would compile torch, transformers and prefopt again, for ten seconds.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Two threads, and none of them spinning while it waits: on few cores that is worth several times the speed.
export OMP_NUM_THREADS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1
export NO_MKDOCS_2_WARNING ?= 1
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo check test test-long test-slow quick-tests tests lint style types docs clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[docs]'
	touch $@

demo: $(VENV)/.installed ## train DPO and SparsePO on a small made corpus and write a page of results (about 3 minutes)
	$(BIN)/prefopt demo --out runs/demo

# Two workers with one thread each; a module's tests stay together, since they share what its fixtures build, and the
# modules that take longest come first. mypy needs one core for a while and runs beside them. Where native code killed a
# test's process (tests/forked.py), the test runs once more, and the summary names it.
PYTEST = COLUMNS=200 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet -rR --reruns 1 --only-rerun NativeCrashError
PARALLEL = $(PYTEST) --numprocesses 2 --dist loadscope --no-loadscope-reorder
BESIDE = +@$(MAKE) --no-print-directory --jobs 2 types

check: style ## types, style and the quick tests: the inner loop, about two minutes
	$(BESIDE) quick-tests

test: style ## set up, check types and style, run all tests but the long forms of some
	$(BESIDE) tests

quick-tests:
	$(PARALLEL) -m "not outside and not slow and not long and not reliability"

tests:
	$(PARALLEL)

test-long: $(VENV)/.installed ## the long forms of tests, three to eight minutes more
	$(PARALLEL) -m long

# The reliability tests run alone: they measure what they do to the machine.
test-slow: test-long ## the long forms, then kills, full disks, fuzzing and soaking, which take hours
	$(PYTEST) -m reliability

lint: style types ## check types and style

style: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

docs: $(VENV)/.docs ## build the documentation into site/, warnings being errors
	$(BIN)/mkdocs build --strict --quiet

clean: ## remove what the other targets made
	rm -rf $(VENV) build dist site runs *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
