# The two commands are `make demo` and `make test`; each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help install demo test quick search lint bench slurm chromium clean

help:
	@echo "make demo     from the embedded atlas to a signed model in 24 languages, then ask it something"
	@echo "make test     the quick and the slow tests"
	@echo "make quick    the quick tests only"
	@echo "make search   the tests of properties, on examples that no run has seen before"
	@echo "make install  a virtual environment in $(VENV) with hanse in it"
	@echo "make lint     format, lint and types"
	@echo "make bench    the benchmarks; results go to bench/results/"
	@echo "make chromium install the browser that tests of the page use (root on Debian; else they are skipped)"
	@echo "make slurm    install the batch system that some tests use (root on Debian; else they are skipped)"

$(VENV)/.base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "Hanse needs Python 3.11 or 3.12; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) --editable '.[test,lint]'
	@touch $@

install: $(VENV)/.base

demo: $(VENV)/.base
	$(BIN)/hanse run
	$(BIN)/hanse chat --prompt "Sag mir die Hauptstadt: Griechenland"
	$(BIN)/hanse verify release/atlas

test: $(VENV)/.dev
	$(BIN)/python -m pytest

quick: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow"

search: $(VENV)/.dev
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=search

lint: $(VENV)/.dev
	$(BIN)/ruff format --check hanse tests bench
	$(BIN)/ruff check hanse tests bench
	$(BIN)/mypy hanse

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) --editable '.[bench]'
	@touch $@

# A batch system for the tests of `hanse launch`, which are skipped where it is missing. Needs root and Debian's packages.
slurm:
	@if test -x /usr/sbin/slurmctld && test -x /usr/sbin/munged; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq >/dev/null 2>&1 \
	  && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slurm-wlm munge >/dev/null 2>&1; \
	then echo "Slurm is installed"; \
	else echo "Slurm cannot be installed here; the tests that need it are skipped"; fi

# A browser for the tests of the page.
chromium:
	@if command -v chromium >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq >/dev/null 2>&1 \
	  && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium fonts-noto-core \
	  >/dev/null 2>&1; \
	then echo "Chromium is installed"; \
	else echo "Chromium cannot be installed here; the tests that need it are skipped"; fi

bench: $(VENV)/.bench
	for file in bench/*.py; do $(BIN)/python $$file || exit; done

clean:
	rm -rf $(VENV) build *.egg-info
