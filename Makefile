# Every target sets up what it needs (testdata/bin/setup: with apt, as root or through sudo) and needs nothing but Rust.
TARGET    := $(or $(CARGO_TARGET_DIR),target)
LAPSTRAKE := $(TARGET)/release/lapstrake
PREFIX    ?= /usr/local
export LAPSTRAKE

.PHONY: build test demo apps bench install setup clean

build:
	@testdata/bin/setup build
	cargo build --release --locked

# Formatting, lints, documentation, every test; the last line is "N passed, N failed".
test:
	@testdata/bin/setup test
	@testdata/bin/test

# Builds two real applications twice and runs them.
demo: build
	@testdata/bin/setup demo
	@testdata/bin/demo

# The same with all applications of testdata/apps.
apps: build
	@testdata/bin/setup demo
	@testdata/bin/demo c python node rust

# Times lapstrake beside buildah and docker, and the parser alone; BENCH holds arguments, such as BENCH="--rounds 1".
bench: build
	@testdata/bin/setup bench
	@python3 testdata/bench/bench.py $(BENCH)
	cargo bench -q -p lapstrake-frontend --locked

install: build
	install -D -m 755 $(LAPSTRAKE) $(DESTDIR)$(PREFIX)/bin/lapstrake

setup:
	@testdata/bin/setup bench

clean:
	-@testdata/bin/registry stop target/registry
	cargo clean
	rm -rf target
