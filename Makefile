# Needs Python >= 3.11 with pip, a Rust toolchain with a C compiler, and make; everything else is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CRATE := rustbpe/Cargo.toml
CRATE_SOURCES := $(CRATE) $(wildcard rustbpe/src/*.rs rustbpe/src/*/*.rs rustbpe/src/*/*/*.rs)

.DEFAULT_GOAL := help
.PHONY: help install hooks demo test test-slow test-all check bench format size accept-stages reference

help:  ## List the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  \1\t/' | expand -t 18

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nanochat needs Python 3.11 or newer; set PYTHON=/path/to/it"; exit 1; }
	@cargo --version >/dev/null 2>&1 || { echo "nanochat needs a Rust toolchain (a cargo that runs) to build its tokenizer"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt $(CRATE_SOURCES)
	@echo "Installing into $(VENV) (torch is large: a few minutes the first time) …"
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/.installed  ## Create .venv, build the tokenizer, install everything.

demo: install  ## Run the whole pipeline on a small invented world, then prompt the chat model.
	$(BIN)/nanochat run --profile demo
	$(BIN)/nanochat chat -p "Hello! Who are you?"

PYTEST := $(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed-dev  ## Python tests that are not slow, and the Rust tests.
	$(PYTEST) -m 'not slow'
	cargo test --quiet --manifest-path $(CRATE)

test-slow: $(VENV)/.installed-dev  ## The other tests: whole sites, a browser, Postgres, killed processes.
	$(PYTEST) -m slow

test-all: test test-slow  ## Every test.

check: $(VENV)/.installed-dev  ## Lint, formatting, types, architecture, spelling, dead code, clippy; cargo deny if it is installed.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-cache
	git ls-files | xargs $(BIN)/codespell
	$(BIN)/vulture
	cargo fmt --check --manifest-path $(CRATE)
	cargo clippy --quiet --all-targets --all-features --manifest-path $(CRATE) -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny --manifest-path $(CRATE) check bans licenses sources; fi

hooks: $(VENV)/.installed-dev  ## Install the git hooks of .pre-commit-config.yaml.
	$(BIN)/pre-commit install

bench: $(VENV)/.installed-dev  ## Compare the speed of tokenizer, data plane, training and inference with their peers.
	$(BIN)/python benchmarks/tokenizer.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/ranks.py
	$(BIN)/python benchmarks/inference.py
	cargo bench --manifest-path $(CRATE)

format: $(VENV)/.installed-dev  ## Fix lint findings and format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cargo fmt --manifest-path $(CRATE)

size: ## Count lines per file, the largest first.
	@git ls-files '*.py' '*.rs' | xargs wc -l | sort -rn | head -20

accept-stages: $(VENV)/.installed-dev  ## Record the stages' sources, after their versions were increased where they compute something else.
	$(BIN)/python -m tests.test_stage_versions

reference: $(VENV)/.installed-dev  ## Write docs/reference from the code: environment variables, commands, config fields.
	$(BIN)/python docs/generate.py
