# Two commands do everything: `make demo` (the main job) and `make test` (everything).
# Both install what they need: system packages (system-packages.txt) and a virtual environment.
SHELL := /bin/bash
PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := build/stamps
BPF_ARCH := $(shell uname -m | sed 's/x86_64/x86/; s/aarch64/arm64/')
TRIPLET := $(shell gcc -dumpmachine 2>/dev/null || echo $(shell uname -m)-linux-gnu)

# Tests that keep a model checker or one processor busy.
SPEC_TESTS := $(addprefix tests/integration/test_,specs.py traces.py spec_behaviours.py \
  spec_mutants.py check.py check_apalache.py specs_apalache.py formal_archive.py formal_tlc.py \
  formal_docs.py tracecheck.py xds_traces.py evidence.py fuzz.py)

.PHONY: setup system build check test test-specs test-processes demo \
  demo-kubernetes bench bench-xds clean help
.DEFAULT_GOAL := help

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: system $(STAMPS)/python build ## install everything (system packages, Python packages, build)

system: $(STAMPS)/system

$(STAMPS)/system: system-packages.txt
	@mkdir -p $(@D)
	@missing=$$(grep -v '^#' $< | while read -r p; do dpkg-query -W -f='$${Status}' "$$p" 2>/dev/null | grep -q 'install ok installed' || echo "$$p"; done); \
	if [ -n "$$missing" ]; then \
	  echo "installing system packages:" $$missing; \
	  if [ "$$(id -u)" = 0 ]; then \
	    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends $$missing; \
	  else echo "not root: install them with apt-get and run again"; exit 1; fi; \
	else echo "system packages: all there"; fi
	@touch $@

$(STAMPS)/python: pyproject.toml | $(STAMPS)/system
	@echo "installing Python packages into $(VENV)"
	@test -x $(BIN)/python || $(PY) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check "setuptools>=77" "cffi>=1.17" "grpcio-tools>=1.70,<2"
	@$(BIN)/pip install -q --disable-pip-version-check --no-compile --no-build-isolation -e '.[dev,specs]'
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || : # as pip does, and on all processors
	@mkdir -p $(@D) && touch $@

# Compiled ahead: where PYTHONDONTWRITEBYTECODE is set each process would compile all of it anew.
build: reconciler/wire/resources_pb2.py kernel ## generated protobuf, BPF object, cffi extension
	@$(BIN)/python -m compileall -q reconciler bench

reconciler/wire/resources_pb2.py: proto/reconciler/v1/resources.proto | $(STAMPS)/python
	@$(BIN)/python -m grpc_tools.protoc -Ireconciler/wire=proto/reconciler/v1 --python_out=. --pyi_out=. reconciler/wire/resources.proto

.PHONY: kernel
kernel: | $(STAMPS)/python
	@if [ -f kernel/Makefile ]; then $(MAKE) --no-print-directory -C kernel PYTHON=$(abspath $(BIN)/python); fi

check: setup ## format, lint, types, import contracts, file length
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@sh tests/file_length.sh

# Builds a Kubernetes API server once, into a cache outside of this folder, while other tests run.
KUBERNETES_BUILD := $(BIN)/python -m reconciler.testing.kubernetes.build

test: setup ## everything: unit, property, specs, real packets, a real Kubernetes API server
	@mkdir -p build && { nice -n 10 $(KUBERNETES_BUILD) >build/kubernetes-build.log 2>&1 </dev/null & }
	@echo "== unit and property tests"
	@$(BIN)/pytest -q -n 2 tests/unit tests/property
	@$(BIN)/python -m reconciler.formal.archive build/tlc.jsa
	@$(MAKE) --no-print-directory -j 2 test-specs test-processes

# What keeps a processor busy, beside what waits for other processes half of its time: it takes what
# is left. A limit of a test's time is for hangs, and on the clock.
test-specs:
	@echo "== specs, machines and code against each other; mutants, the checkers, their commands"
	@echo "   (beside what follows: what they say comes at their end, and is in build/test-specs.log)"
	@TLA_SHARED_ARCHIVE=$(CURDIR)/build/tlc.jsa nice -n 3 $(BIN)/pytest -q -n 2 --dist loadfile \
	  --timeout 900 $(SPEC_TESTS) >build/test-specs.log 2>&1; code=$$?; \
	  echo; echo "== what build/test-specs.log says"; cat build/test-specs.log; exit $$code

# With tests/kubernetes first, each worker's API server ends when there is nothing left for it.
test-processes:
	@echo "== processes, packets in network namespaces, a real Kubernetes API server"
	@$(KUBERNETES_BUILD)
	@$(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder tests/kubernetes tests/integration \
	  $(addprefix --ignore=,$(SPEC_TESTS))

demo: setup ## the main job: a cluster on this machine, policies enforced on real packets
	@$(BIN)/reconciler demo

demo-kubernetes: setup ## 20,000 pods at a real API server: relabelled, the leader killed, on real packets
	@$(KUBERNETES_BUILD)
	@$(BIN)/reconciler demo --kubernetes

bench: setup ## print each budget beside what was measured; eight minutes
	@$(KUBERNETES_BUILD)
	@$(BIN)/python -m bench

bench-xds: setup ## our xDS server beside go-control-plane, 200 to 10,000 streams; half an hour
	@$(BIN)/python -m bench --only xds

clean: ## remove what was built (not the virtual environment)
	@if [ -f kernel/Makefile ]; then $(MAKE) --no-print-directory -C kernel clean; fi
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
