# Hullwatch. Every target does its own set-up and can be run again: stamp files in build/ tell what
# is done. Needs make, and root (or sudo) only where a Debian package is missing.
#
# Versions of Python packages are those of requirements*.lock, hashes included; `make lock` renews
# them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
PY := $(VENV)/bin/python
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
PIP := $(PY) -m pip --disable-pip-version-check -q

# What it takes to run and to build Hullwatch; then what the tests need on top (runtimes to attack
# in, kernels with BPF LSM to boot); then what the benchmarks compare with.
APT_RUN := python3 python3-venv clang llvm libbpf-dev libbpf1 libc6-dev runc busybox-static iproute2
APT_TEST := containerd containernetworking-plugins file kmod qemu-system-x86 \
	linux-image-amd64 linux-image-6.12-amd64
APT_BENCH := bpftrace
APT_BENIGN := debootstrap
APT_PEERS := bash git openssl

BPF_SOURCES := $(filter-out src/hullwatch/kernel/ops.h,$(wildcard src/hullwatch/kernel/*.[ch])) \
	src/hullwatch/kernel/build.py src/hullwatch/sensor/syscalls.py
PEERS := tests/support/peers
BPF_OBJECTS := src/hullwatch/kernel/hullwatch.x86_64.bpf.o src/hullwatch/kernel/hullwatch.arm64.bpf.o

# $(call apt,PACKAGES): install those that are missing.
define apt
	@missing=(); \
	for package in $(1); do \
		state=$$(dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null || true); \
		[ "$$state" = installed ] || missing+=($$package); \
	done; \
	if (( $${#missing[@]} )); then \
		echo "apt-get install $${missing[*]}"; \
		$(SUDO) apt-get update -qq; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			"$${missing[@]}" </dev/null >build/apt.log 2>&1 \
			|| { tail -30 build/apt.log >&2; exit 1; }; \
	fi
endef

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: run-ready ## Attack real containers on this host and show what Hullwatch sees (ARGS=--stay)
	@$(VENV)/bin/hullwatch demo $(ARGS)

.PHONY: up
up: run-ready ## Watch this host until Ctrl-C
	@exec $(VENV)/bin/hullwatch up $(ARGS)

.PHONY: test
test: test-ready ## Lint, types, unit tests, real containers, VMs with BPF LSM
	@$(PY) tests/all.py $(ARGS)

.PHONY: unit live vm
unit: test-ready ## Only the unit tests (ARGS goes to pytest)
	@$(PY) -m pytest tests/unit $(ARGS)
live: test-ready ## Only the tests against real peers, and real containers on this host
	@$(PY) -m pytest tests/peers tests/live $(ARGS)
vm: test-ready ## Only the tests in VMs with BPF LSM
	@$(PY) -m pytest tests/vm $(ARGS)

.PHONY: conformance
conformance: test-ready ## Every Falco, Sigma and own rule: loads, live, near miss, replay (ARGS=--json)
	@$(PY) tests/conformance.py $(ARGS)

.PHONY: vm-shell
vm-shell: test-ready ## Run CMD in a VM with BPF LSM (KERNEL=6.1 or 6.12)
	@$(PY) tests/vm/run.py $(if $(KERNEL),--kernel $(KERNEL)) -- bash -c '$(or $(CMD),uname -a)'

.PHONY: lint
lint: build/venv-dev.stamp ## Style, format and types only
	@$(PY) tests/all.py lint

.PHONY: format
format: build/venv-dev.stamp ## Put the sources in the format that lint asks for
	@$(VENV)/bin/ruff check --fix -q . && $(VENV)/bin/ruff format .

.PHONY: bench
bench: run-ready build/apt-bench.stamp ## Storms with and without Hullwatch, beside bpftrace
	@$(PY) -m bench $(ARGS)

.PHONY: benign
benign: test-ready build/apt-benign.stamp ## A day of real workloads, and the attacks: what is found (ARGS=--quick)
	@$(PY) bench/benign.py $(ARGS)

.PHONY: bpf
bpf: build/bpf.stamp ## Compile the BPF programs for x86-64 and arm64

.PHONY: lock
lock: build/venv-dev.stamp ## Renew requirements.lock and requirements-dev.lock
	@$(PY) tests/lock.py

.PHONY: peers peers-lock
peers: build/peers.stamp ## Install the real MCP servers and clients that tests drive
peers-lock: build/peers.stamp ## Renew the locks of the peers
	@$(PY) tests/support/peers/install.py --renew

.PHONY: clean
clean: ## Remove what was built, except .venv (make distclean removes that too)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache src/hullwatch/kernel/*.bpf.o \
		src/hullwatch/kernel/ops.h
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean
	rm -rf $(VENV)

.PHONY: run-ready test-ready
run-ready: build/apt-run.stamp build/install.stamp build/bpf.stamp
test-ready: build/apt-run.stamp build/apt-test.stamp build/venv-dev.stamp build/install.stamp \
	build/bpf.stamp build/peers.stamp

build:
	@mkdir -p build

build/apt-run.stamp: Makefile | build
	$(call apt,$(APT_RUN))
	@touch $@

build/apt-test.stamp: Makefile build/apt-run.stamp | build
	$(call apt,$(APT_TEST))
	@touch $@

build/apt-bench.stamp: Makefile | build
	$(call apt,$(APT_BENCH))
	@touch $@

build/apt-benign.stamp: Makefile | build
	$(call apt,$(APT_BENIGN))
	@touch $@

build/peers.stamp: $(PEERS)/install.py $(PEERS)/environments.py $(wildcard $(PEERS)/*.lock) \
		$(PEERS)/package.json $(PEERS)/package-lock.json build/venv-dev.stamp | build
	$(call apt,$(APT_PEERS))
	@echo "peers: Python SDKs, Node, npm packages (half a minute)"
	@$(PY) $(PEERS)/install.py
	@touch $@

# The first Python >= 3.11 in PATH that can make virtual environments.
$(PY): | build/apt-run.stamp
	@for python in python3.11 python3.12 python3.13 python3.14 python3 /usr/bin/python3; do \
		$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
			2>/dev/null || continue; \
		echo "$$($$python -V): $(VENV)"; \
		exec $$python -m venv $(VENV); \
	done; \
	echo "no Python >= 3.11 with venv found; apt-get install python3 python3-venv" >&2; exit 1

build/venv.stamp: requirements.lock | build $(PY)
	@echo "pip install -r requirements.lock"
	@$(PIP) install --require-hashes --only-binary :all: -r requirements.lock
	@touch $@

build/venv-dev.stamp: requirements-dev.lock build/venv.stamp | build
	@echo "pip install -r requirements-dev.lock"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

# The hook's BPF build is left to build/bpf.stamp, which knows when there is nothing to do.
build/install.stamp: pyproject.toml hatch_build.py build/venv.stamp | build
	@HULLWATCH_BPF=skip $(PIP) install --no-index --no-deps --no-build-isolation -e .
	@touch $@

build/bpf.stamp: $(BPF_SOURCES) build/install.stamp | build build/apt-run.stamp
	@$(PY) -m hullwatch.kernel.build
	@touch $@

$(BPF_OBJECTS): build/bpf.stamp
