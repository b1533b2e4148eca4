# make install [GPU=1] [PYTHON=path]   a virtual environment with everything, in .venv
# make demo                            a simulated day of the baseline network, with its report
# make test | test-all | defects       the suite | with long tests and more examples | each planted fault must be caught
# make fuzz [STEPS=n] [SEED=n]      random steps on all contracts, each compared with a model
# make bench | docs | lint | format | clean       docs: the API reference, into build/reference

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
WORKERS ?= 2
STEPS ?= 1000000
SEED ?= 1
PYENV_ROOT ?= $(HOME)/.pyenv

INFERENCE := $(if $(GPU),gpu,cpu)
OTHER_ONNXRUNTIME := onnxruntime$(if $(GPU),,-gpu)
INSTALLED := .venv/.installed-$(INFERENCE)
PYTEST := .venv/bin/pytest -q -n $(WORKERS) --dist loadfile --nbmake --nbmake-timeout=300

# A name on the PATH may be a shim without an interpreter behind it, so each candidate is run, not looked up.
CANDIDATES = $(or $(PYTHON),python3.12 python3.13 python3.14 $(wildcard $(PYENV_ROOT)/versions/3.1[2-9]*/bin/python) python3 python)
define find_python
for want in '==' '>='; do \
    for python in $(CANDIDATES); do \
        if "$$python" -c "import ensurepip, sys, venv; sys.exit(not sys.version_info[:2] $$want (3, 12))" >/dev/null 2>&1; \
        then echo "$$python"; exit; fi; \
    done; \
done; \
echo "lattice needs Python 3.12 or newer with its venv module; none of these ran: $(strip $(CANDIDATES)); see PYTHON=path" >&2; \
exit 1
endef

.PHONY: install demo test test-all defects fuzz bench docs lint format clean
.DEFAULT_GOAL := install

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then python=$$($(find_python)); "$$python" -m venv --clear .venv; fi
	@.venv/bin/pip uninstall -qqy $(OTHER_ONNXRUNTIME)
	.venv/bin/pip install -q -c constraints.txt -e '.[sim,live,study,ray,view,notebooks,$(INFERENCE),dev]'
	@rm -f .venv/.installed-*
	@touch $@

demo: install
	.venv/bin/lattice run experiments/baseline.yaml --force

test: install
	$(PYTEST) tests notebooks/03-routing.ipynb

test-all: install
	HYPOTHESIS_PROFILE=thorough $(PYTEST) -m "not defects" tests notebooks

defects: install
	$(PYTEST) --dist load -m defects tests/defects

fuzz: install
	.venv/bin/python -m tests.chain.machine.fuzz --steps $(STEPS) --seed $(SEED)

bench: install
	.venv/bin/lattice bench engine --table
	.venv/bin/lattice bench gas --json
	.venv/bin/pytest -q -m thorough -k 99_percent tests/theory

docs: install
	.venv/bin/python docs/reference.py

lint: install
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy --strict lattice_core
	.venv/bin/mypy lattice_sim lattice_live lattice_cli

format: install
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

clean:
	rm -rf build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . \( -name .venv -o -name node_modules -o -name .git \) -prune -o -name __pycache__ -exec rm -rf {} +
