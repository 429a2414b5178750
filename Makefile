# make quickstart   install into .venv and run the whole pipeline on a generated shop
# make test         run the tests            make lint    check style and types
# make docs         build the documentation site into build/docs; warnings are errors
# make lowest       run a few tests with the lowest versions that pyproject.toml declares
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test lint docs lowest install clean

# Passive: waiting threads do not spin, which would slow down a busy machine several times.
quickstart: $(STAMP)
	OMP_WAIT_POLICY=passive $(BIN)/genrec run quickstart
	@echo "To type genrec as above, first:  source $(BIN)/activate" >&2

# One thread per worker, as there are two workers on two cores.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The source folder is the repository, so that the links to README.md are the same here and on GitHub.
docs: $(STAMP)
	$(BIN)/python -m sphinx -E -W --keep-going -q -b html -c docs . build/docs

# torch is the tested build, as the lowest version brings gigabytes of CUDA libraries.
LOWEST := .venv-lowest
lowest: constraints.txt pyproject.toml
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/python -m pip freeze | grep '^torch==' > $(LOWEST)/torch.txt
	$(LOWEST)/bin/uv --no-config pip install --python $(LOWEST)/bin/python --resolution lowest-direct \
		--override $(LOWEST)/torch.txt -e '.[dev]'
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 0 $(LOWEST_TESTS)
LOWEST_TESTS := tests/test_config.py tests/test_artifacts.py tests/test_inspect.py tests/test_parsing.py tests/test_import.py

install: $(STAMP)

# The pinned torch is installed first, so that it satisfies later ranges and no other build is installed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "genrec needs Python 3.11 or newer; try: make PYTHON=python3.11" >&2; exit 1; }
	@echo "Installing into $(VENV), once: a few minutes." >&2
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

# Removes temporary files of the tools; artifacts/ (results) and .venv/ are kept.
clean:
	rm -rf build dist .pytest_cache .hypothesis .ruff_cache .mypy_cache *.egg-info
	find genrec_cli tests -name __pycache__ -type d -prune -exec rm -rf {} +
