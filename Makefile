.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3))
VENV   ?= .venv
BIN    := $(VENV)/bin
PORT   ?= 8000
T      ?= tests
ARGS   ?=

# One stamp file per set of dependencies; `dev` contains the others.
PINS := pyproject.toml requirements/constraints.txt tools/install.py

$(VENV)/.embedded $(VENV)/.distributed $(VENV)/.reproduce $(VENV)/.dev: $(PINS)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python tools/install.py $(patsubst .%,%,$(notdir $@))
	@touch $@

# What `dev` installed need not be installed again for `run`.
installed = $(if $(wildcard $(VENV)/.dev),$(VENV)/.dev,$(VENV)/.$(1))

##@ Use

.PHONY: run
run: $(call installed,embedded) ## Train the digits demo once, then serve it in one process (PORT=8000)
	@$(BIN)/gmem train --preset digits --if-missing
	@exec $(BIN)/gmem serve --port $(PORT)

.PHONY: run-distributed
run-distributed: $(call installed,distributed) ## The same as separate processes: bank, Triton, front end
	@$(BIN)/gmem train --preset digits --if-missing
	@mkdir -p .gmem
	@PATH="$(abspath $(BIN)):$$PATH" GMEM_GENERATOR__PORT=$(PORT) \
		exec $(BIN)/supervisord --configuration supervisord.conf

.PHONY: train
train: $(call installed,embedded) ## Train and publish a new version of the digits demo (ARGS=…)
	@$(BIN)/gmem train --preset digits $(ARGS)

.PHONY: reproduce-digits
reproduce-digits: $(call installed,reproduce) ## The paper's headline in miniature: SiT, REPA and GMem at equal size
	@$(BIN)/gmem reproduce $(ARGS)

##@ Develop

.PHONY: setup
setup: $(VENV)/.dev ## Create .venv with everything, pinned

.PHONY: fmt
fmt: $(VENV)/.dev ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: lint
lint: $(VENV)/.dev ## Check style
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

.PHONY: types
types: $(VENV)/.dev ## Check types (mypy, strict)
	@$(BIN)/mypy

.PHONY: arch
arch: $(VENV)/.dev ## Check which package may import which
	@$(BIN)/lint-imports

.PHONY: test
test: $(VENV)/.dev ## Run the tests (T=path ARGS='-k name')
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadgroup --no-loadscope-reorder $(T) $(ARGS)

.PHONY: e2e-compose
e2e-compose: $(VENV)/.dev ## Build the images, run all of docker-compose.yml, break it, take it down
	@GMEM_TEST_REQUIRE=docker $(BIN)/python -m pytest tests/e2e/compose -m docker -s $(ARGS)

.PHONY: e2e-kubernetes
e2e-kubernetes: $(VENV)/.dev ## Start the pods of k8s/overlays/dev under podman, no cluster
	@GMEM_TEST_REQUIRE=podman,kubectl $(BIN)/python -m pytest tests/e2e/kubernetes -m podman $(ARGS)

.PHONY: k8s-check
k8s-check: $(VENV)/.dev ## Build the Kubernetes manifests and check them; needs kubectl, no cluster
	@GMEM_TEST_REQUIRE=kubectl $(BIN)/python -m pytest tests/integration/kubernetes $(ARGS)

.PHONY: k8s-rules
k8s-rules: ## Copy Prometheus' rules into the Kubernetes manifests
	@$(PYTHON) tools/prometheus_rule.py

.PHONY: proto
proto: $(VENV)/.dev ## Generate the gRPC code from the .proto files
	@cd shared && PATH="$(abspath $(BIN)):$$PATH" python -m grpc_tools.protoc -I . \
		--python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. \
		gmem_shared/proto/bank/v1/bank.proto

.PHONY: dashboards
dashboards: $(VENV)/.dev ## Make the Grafana dashboards, which are committed, from the metrics' names
	@PYTHONPATH=. $(BIN)/python -m observability.dashboards

.PHONY: settings-page
settings-page: $(VENV)/.dev ## Write docs/operations/configure.md from the settings
	@$(BIN)/python tools/settings_page.py

.PHONY: proto-check
proto-check: proto ## Fail when the committed gRPC code is not what the .proto files give
	@git diff --exit-code -- shared/gmem_shared/proto

.PHONY: audit
audit: $(VENV)/.dev ## Look up the pinned packages in the public list of vulnerabilities (network)
	@$(BIN)/python tools/audit.py requirements/constraints.txt

.PHONY: sbom
sbom: $(VENV)/.dev ## Write what is installed to sbom.json (CycloneDX)
	@$(BIN)/cyclonedx-py environment $(VENV) --pyproject pyproject.toml --output-reproducible \
		--output-file sbom.json

BENCHMARKS = $(patsubst benchmarks/%.py,%,$(filter-out %/__init__.py,$(wildcard benchmarks/*.py)))

.PHONY: bench
bench: $(VENV)/.dev ## Run the benchmarks briefly; each prints ratios and its goals (B='name …')
	@set -e; for b in $(or $(B),$(BENCHMARKS)); do echo "== $$b"; \
		$(BIN)/python -m benchmarks.$$b --quick $(ARGS); done

.PHONY: bench-full
bench-full: $(VENV)/.dev ## Run the benchmarks at length and write benchmarks/README.md (B='name …')
	@set -e; for b in $(or $(B),$(BENCHMARKS)); do echo "== $$b"; \
		$(BIN)/python -m benchmarks.$$b $(ARGS); done
	@$(BIN)/python -m benchmarks.harness.report

.PHONY: clean
clean: ## Remove the environment and caches; keeps .gmem, the local store
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.PHONY: help
help: ## Show this
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*##/ {printf "  \033[36m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
