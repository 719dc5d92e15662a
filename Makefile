# The two commands of the README are `make run` and `make test`. Each does its own set-up.
.PHONY: help setup run demo test lint doc soak faults chaos test-upgrade test-vhost bench-vhost interop bench bench-scale bench-restart

help: ## What there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## QEMU, a guest kernel, vsock's back-end, our programs, the guest images
	@./scripts/setup.sh

run: setup ## Two microVMs under supervision, in the foreground; Ctrl-C stops them in order
	@target/debug/pepitad --config config/quickstart.toml

demo: setup ## The same scripted: boot, kill one, see it come back, stop
	@./scripts/demo.sh

lint: ## Formatting and clippy
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings

doc: ## The book of the crates, without warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps

test: setup lint doc ## Everything that CI checks, real microVMs included
	@./scripts/test.sh
	$(MAKE) interop

soak: setup ## 50 boots of one microVM in a row
	PEPITA_SOAK_BOOTS=50 cargo test --test microvm -- --nocapture boots_in_a_row

faults: setup ## Each fault of a real microVM, the long form
	PEPITA_LONG=1 cargo test -p pepita-launcher -- --nocapture

chaos: setup ## Five minutes of random kills
	PEPITA_CHAOS_SECONDS=300 cargo test -p pepita-supervisors --test programs -- --nocapture random_kills

test-upgrade: setup ## VMs of an older version (commit 445d9af) go on under this one
	@./scripts/test-upgrade.sh

test-vhost: setup ## Kernel vsock: inner microVMs inside an outer one whose kernel has vhost_vsock
	cargo test --no-run --test microvm
	cargo test --test vhost -- --nocapture

bench-vhost: setup ## The link's cost over kernel vsock, in a VM in a VM
	cargo bench -p pepita-supervisor --bench link --no-run
	cargo test --no-run --test microvm
	PEPITA_VHOST_BENCH=1 cargo test --test vhost -- --nocapture

interop: setup ## duende-core's own adapter on our pepita, and ours in its place
	cd tests/interop/duende-client && CARGO_TARGET_DIR=../../../target/duende cargo test --locked
	cd tests/interop/duende-interop && CARGO_TARGET_DIR=../../../target/duende cargo test --locked

bench: setup ## What is promised as a number
	cargo bench --workspace

bench-scale: ## 500 VMs in one tree (plain processes): start, 100 killed at once, memory, at rest
	cargo build --release --workspace --bins
	cargo bench -p pepita-supervisor --bench scale

bench-restart: ## From SIGKILL until the daemon runs again; other supervisors beside it, if installed
	cargo build --release --workspace --bins
	cargo bench -p pepita-supervisor --bench restart
