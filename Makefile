# The front door. `make` says what there is; each target is one cargo command or one script.

.DEFAULT_GOAL := help
.PHONY: help demo test lint book dist audit fuzz fuzz-smoke bench bench-connections bench-relay bench-mirror soak
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# Seconds for each fuzz target: a look at every change, ten minutes in `make soak`.
FUZZ_SECONDS ?= 5

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## two real Kafka clusters, the proxy, the mirror, real clients; a route is edited, and topics move while you watch
	@scripts/need demo
	@echo "building; the first time takes some minutes"
	@cargo build --quiet --locked --profile demo -p kferry -p kferry-proxy -p kferry-mirror -p kferry-tests --bin kferry --bin kferry-proxy --bin kferry-mirror --bin demo
	@"$${CARGO_TARGET_DIR:-target}/demo/demo"

test: ## everything: unit tests, real brokers, every client, fuzzing
	@scripts/need test
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/test

lint: ## formats, clippy, cargo doc, licenses, words, alerts, the Helm chart, links of the documents; warnings are errors
	@scripts/need lint
	@scripts/lint

book: ## the documents as one book, in target/book/html
	@scripts/need book
	@scripts/tool mdbook
	@scripts/book
	@echo target/book/html/index.html

dist: ## a tarball of the programs, stripped, which need glibc alone; man pages, completions, systemd units, checksum
	@scripts/need dist
	@scripts/dist

audit: ## known vulnerabilities of the dependencies; needs github.com
	@scripts/tool cargo-deny
	@target/tools/bin/cargo-deny --all-features check advisories

fuzz: ## every fuzz target for FUZZ_SECONDS (make fuzz FUZZ_SECONDS=60)
	@scripts/fuzz $(FUZZ_SECONDS)

# What `make test` runs of it.
fuzz-smoke: fuzz

bench: bench-connections bench-relay bench-mirror ## what kferry costs; run it on a quiet machine

bench-connections: ## memory of 4,000 silent and 4,000 routed connections, time to the first routed byte
	@scripts/need demo
	@cargo build --release --quiet --workspace --bins
	@cargo run --release --quiet -p kferry-tests --bin bench-connections

bench-relay: ## CPU per GB, throughput, latency and memory of relayed clients, beside a bare C program that splices, HAProxy and no proxy
	@scripts/need bench
	@cargo build --release --quiet --workspace --bins
	@cargo run --release --quiet -p kferry-tests --bin bench-relay

bench-mirror: ## copying 5 million records beside MirrorMaker 2; small batches, late log starts, 2,000 idle partitions
	@scripts/need demo
	@cargo build --release --quiet --workspace --bins
	@cargo run --release --quiet -p kferry-tests --bin bench-mirror

soak: ## the long runs: 50 kills of mirror and brokers, 20 of processes that share a mirror, 20 moves each way of each client library, 200 moves among kills, 13,200 partitions, a batch of 100 MiB, every producer of each client library while its topics come to lead elsewhere, a thousand partitions that move at once, a million simulated schedules of moves, each fuzz target for ten minutes
	@scripts/need test
	@cargo build --workspace --bins
	@KFERRY_KILLS=50 cargo test -p kferry-tests --test mirror_chaos -- --nocapture
	@KFERRY_KILLS=20 cargo test -p kferry-tests --test mirror_shards -- --nocapture
	@KFERRY_MOVES=20 cargo test -p kferry-tests --test moves matrix -- --ignored --nocapture
	@KFERRY_MOVES=200 cargo test -p kferry-tests --test moves random -- --ignored --nocapture
	@cargo test -p kferry-tests --test one_view -- --ignored --nocapture
	@cargo test -p kferry-tests --test moves many -- --ignored --nocapture
	@cargo test -p kferry-tests --test moves_groups -- --ignored --nocapture
	@KFERRY_SEEDS=1000000 cargo test --profile simulator -p kferry-wire --test moves_simulator -- --nocapture
	@scripts/fuzz 600
