# Forebay: `make demo` to see it work, `make test` to check it. CONTRIBUTING.md describes the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
CACHE := $(or $(FOREBAY_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/forebay)

# Build output lives outside the checkout, so that a second clone compiles nothing twice.
export CARGO_TARGET_DIR ?= $(CACHE)/target
export ROCKSDB_LIB_DIR ?= $(CACHE)/rocksdb/current
export ROCKSDB_INCLUDE_DIR ?= $(ROCKSDB_LIB_DIR)/include
export ROCKSDB_STATIC ?= 1
# The crate compiles its own glue; it must agree with the library, which has no run-time type information.
export CXXFLAGS ?= -fno-rtti
# BACKEND=memory leaves out RocksDB and S3, for a first result within minutes on a cold machine.
BACKEND ?= rocksdb
INPUT ?= integration-tests/data/flights-2013.csv.zst
S3 ?= 0
SEEDS ?= 1000
FIRST ?= 0
ROUNDS ?= 50
CLUSTERS ?= 8
RUNS ?= 5
TARGET ?= packed_ops
TIME ?= 60
LENGTH ?= 1024
CASES ?= 10000
CUTS ?= 200
# Which tenth of the matrices `make test` takes; each commit takes the next.
MATRIX ?= $(or $(shell git rev-list --count HEAD 2>/dev/null),0)

BUILD := cargo build --release --workspace --bins --examples --locked
MEMORY := --no-default-features
SIMULATION := --release --locked -p forebay-integration-tests --no-default-features --features seeded-bugs

.PHONY: demo test test-long simulate chaos bench fuzz corpus lint fmt setup env

setup:
	deploy/setup.sh rocksdb

# The variables that cargo needs, for `eval`.
env:
	@$(foreach v,CARGO_TARGET_DIR ROCKSDB_LIB_DIR ROCKSDB_INCLUDE_DIR ROCKSDB_STATIC CXXFLAGS,echo 'export $(v)="$($(v))"';)

ifeq ($(BACKEND),memory)
demo: export CARGO_TARGET_DIR := $(CARGO_TARGET_DIR)-memory
demo:
	deploy/setup.sh
	cargo build --release --locked -p forebay-server -p forebay-client -p forebay-integration-tests \
	    --bins --examples $(MEMORY)
	$(CARGO_TARGET_DIR)/release/demo --backend memory --input $(INPUT)
else
demo: setup
	$(BUILD)
	$(CARGO_TARGET_DIR)/release/demo --backend rocksdb --input $(INPUT) $(if $(filter 1,$(S3)),--s3)
endif

test:
	deploy/setup.sh tests
	cargo fmt --all --check
	$(CACHE)/venv/bin/buf lint proto
	$(BUILD)
	FOREBAY_MATRIX=$(MATRIX) cargo test --release --workspace --locked
	FOREBAY_ENDURANCE=60 cargo test --release --locked -p forebay-integration-tests --test processes \
	    no_file_is_lost_at_maximum_rate
	cargo test $(SIMULATION) --test simulation
	cargo test $(SIMULATION) --test state_model seeded
	cargo test --release --locked -p forebay-server --no-default-features --features seeded-bugs --lib coordinator

# The state model under 10,000 random sequences per backend, and lists of 10 million elements. Uploads, compactions,
# subsumed checkpoints and collections at maximum rate for 10 minutes. All cells of the matrices. Another engine over 50
# courses of events per backend. 200 losses of power.
test-long: setup
	$(BUILD)
	FOREBAY_CASES=$(CASES) FOREBAY_ELEMENTS=10000000 \
	    cargo test --release --locked -p forebay-integration-tests --test state_model --test long_list
	FOREBAY_ENDURANCE=600 cargo test --release --locked -p forebay-integration-tests --test processes \
	    no_file_is_lost_at_maximum_rate -- --nocapture
	FOREBAY_MATRIX=all cargo test --release --locked -p forebay-integration-tests --test processes corruption::matrix
	FOREBAY_MATRIX=all cargo test --release --locked -p forebay-integration-tests --test processes object_stores::matrix
	FOREBAY_SEEDS=50 cargo test --release --locked -p forebay-integration-tests --test processes engines::flink
	FOREBAY_CUTS=$(CUTS) cargo test --release --locked -p forebay-integration-tests --test processes \
	    power::at_wal_sync_all -- --nocapture

simulate:
	deploy/setup.sh
	cargo run $(SIMULATION) --bin simulate -- --seeds $(SEEDS) --first $(FIRST)

chaos: setup
	$(BUILD)
	$(CARGO_TARGET_DIR)/release/chaos --rounds $(ROUNDS) --clusters $(CLUSTERS) --first $(FIRST) \
	    --record docs/reliability/README.md

bench:
	deploy/setup.sh tests
	$(BUILD)
	$(CARGO_TARGET_DIR)/release/bench --runs $(RUNS)
	$(CARGO_TARGET_DIR)/release/bench-checkpoints --runs $(RUNS)
	$(CARGO_TARGET_DIR)/release/bench-local --runs $(RUNS)
	$(CARGO_TARGET_DIR)/release/bench-nexmark --runs $(RUNS)
	$(CARGO_TARGET_DIR)/release/bench-latency --runs $(RUNS)
	$(CARGO_TARGET_DIR)/release/bench-soak --runs $(RUNS)
	$(CARGO_TARGET_DIR)/release/bench-threads --runs $(RUNS)
	$(CARGO_TARGET_DIR)/release/bench-failover --runs $(RUNS)

# What it finds stays in the cache: hundreds of inputs, of which few are worth a commit.
FOUND := $(CACHE)/fuzz/$(TARGET)
CORPUS := integration-tests/fuzz/corpus/$(TARGET)
# libFuzzer needs flags that stable compilers take only when told to.
FUZZ := FOREBAY_FUZZ=$(TARGET) RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir integration-tests/fuzz any

fuzz:
	deploy/setup.sh
	command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
	mkdir -p $(FOUND) $(CORPUS)
	$(FUZZ) $(FOUND) $(CORPUS) -- -max_total_time=$(TIME)

# Takes of what `make fuzz` has found the few short inputs that reach code which the corpus does not; how often they
# reach it does not count, or there would be hundreds.
corpus:
	mkdir -p $(FOUND) $(CORPUS)
	$(FUZZ) $(CORPUS) $(FOUND) -- -set_cover_merge=1 -use_counters=0 -max_len=$(LENGTH)

lint: setup
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets --locked -- -D warnings

fmt:
	cargo fmt --all
