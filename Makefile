# Everything that `make` needs it installs by itself, pinned, into TIDE_CACHE.
SHELL := /bin/bash
export TIDE_CACHE ?= $(HOME)/.cache/pg-tide
export CARGO_TARGET_DIR ?= $(TIDE_CACHE)/target

.DEFAULT_GOAL := help
.PHONY: help setup build image lint test test-full demo demo-local demo-down bench chaos generate

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what building and testing need
	@e2e/setup

build: setup ## Build the programs (debug)
	cargo build --locked -p pg-tide -p pg-tide-operator

image: setup ## Make the container image of the programs (release), without a container tool
	@e2e/image

lint: setup ## Formatting, clippy with warnings denied, licences and sources of dependencies
	@e2e/lint

test: setup ## Set everything up and run every test
	@e2e/test

test-full: test ## The tests, a thousand Pipelines, and the most telling tests on PostgreSQL 14 to 17
	@e2e/test -p pg-tide-cluster-tests --features long --test scale -- --nocapture
	@e2e/test-versions

demo: ## The tutorial on a real Kubernetes, step by step (CLUSTER=kind: on kind; KEEP=1: leave it running)
	@e2e/demo/run

demo-local: ## The same without Kubernetes
	@DEMO=local e2e/demo/run

demo-down: ## Take down what KEEP=1 kept
	@DEMO=down e2e/demo/run

generate: setup ## Write all files that are made from others
	@e2e/generate

bench: setup ## Measure throughput, latency and cost, release build, against the machine's limits (QUICK=1: within 5 minutes)
	@e2e/measure $(if $(QUICK),--quick) $(BENCH_ARGS)

chaos: setup ## Break relays, servers and network under load, and check by id (SEED= MINUTES= FAULTS= SINK=kafka|transactional|nats)
	@e2e/chaos/run $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(COUNT),--count $(COUNT)) \
	  $(if $(FAULTS),--faults $(FAULTS)) $(if $(SINK),--sink $(SINK)) $(CHAOS_ARGS)
