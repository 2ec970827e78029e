# Needs only Python 3.11 or newer and make. `make demo` and `make test` set up their own environment in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo docs test test-slow test-browser lint format bench dist oldest clean

demo: .venv/base
	$(BIN)/fairlead demo

# build/site: open build/site/index.html, or serve the folder; it needs no network
docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: .venv/dev
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile -rs

# Installs chromium where it is missing, as root on Debian; elsewhere install chromium and its driver first.
test-browser: .venv/dev
	@{ command -v chromium && command -v chromedriver; } > /dev/null || \
		{ apt-get update && apt-get install -y chromium chromium-driver; }
	$(BIN)/pytest -m browser -rs

test-slow: .venv/dev
	$(BIN)/pytest -m slow

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/dev
	$(BIN)/python benchmarks/cost.py

# wheel and source archive; the wheel is tried in an environment of its own
dist: .venv/dev
	rm -rf build dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	@test $$(stat -c %s dist/*.whl) -lt 1000000 || (echo "the wheel has more than 1 MB"; exit 1)
	$(PYTHON) -m venv build/clean
	build/clean/bin/pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd build && clean/bin/fairlead --version && clean/bin/fairlead demo --seconds 1 --n 60

# an environment with the oldest dependencies that pyproject.toml allows, beside the torch of constraints.txt
oldest:
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python .ci/oldest > build-oldest.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r build-oldest.txt -e ".[dev]"
	@rm build-oldest.txt
	@touch .venv/base .venv/dev

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache

.venv/base: pyproject.toml constraints.txt
	@echo "setting up .venv (about a minute) ..."
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "fairlead needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(INSTALL) -e ".[app]"
	@touch $@

.venv/dev: .venv/base
	@$(INSTALL) -e ".[dev]"
	@touch $@
