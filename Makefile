# The README names `make run` and `make test`. Each target installs what it needs before it starts.
.PHONY: help setup setup-tests kernel test-kernel run demo demo-redis test lint doc soak soak-long faults inject kills chaos test-upgrade test-vhost bench-vhost interop deny fuzz fuzz-smoke bench bench-smoke performance-doc bench-scale bench-commands bench-restart bench-ports bench-images bench-recovery bench-idle bench-jail

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## Install QEMU, a guest kernel and the vsock back-end; build the programs and the guest images
	@./scripts/setup.sh

setup-tests: setup ## Fetch what only the tests need (Erlang/OTP, strace, images of real daemons) into .tools and .guest
	@./scripts/setup-tests.sh

kernel: ## Build the small guest kernel .guest/vmlinux-small from Debian's source (some minutes, 1.5 GB for the build)
	@./scripts/kernel.sh

run: setup ## Supervise two microVMs in the foreground; Ctrl-C stops them in order
	@target/debug/pepitad --config config/quickstart.toml

demo: setup ## Run a script: boot two microVMs, kill one, wait until it is back, stop both
	@./scripts/demo.sh

demo-redis: setup ## Kill the VMM of a redis three times under a client that writes; count what the client met
	@./scripts/setup-tests.sh redis
	@cargo build --quiet -p pepita-supervisors --example redis_writer
	@./scripts/demo-redis.sh

lint: ## Check the formatting and run clippy
	cargo fmt --all --check
	cd fuzz && cargo fmt --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings

doc: ## Build the API documentation; a warning is an error
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps

test: setup-tests lint doc ## Run lint, doc, all tests (with real microVMs), fuzz-smoke, interop, upgrade and bench-smoke
	@./scripts/test.sh
	$(MAKE) fuzz-smoke
	$(MAKE) interop
	@if git cat-file -e 445d9af^{commit} 2>/dev/null; then ./scripts/test-upgrade.sh; \
	else echo "==> NOT RUN: the upgrade tests; this checkout lacks the history (git fetch --unshallow)"; fi
	$(MAKE) bench-smoke

soak: setup ## Boot a microVM 50 times in a row
	PEPITA_SOAK_BOOTS=50 cargo test --test microvm -- --nocapture boots_in_a_row

soak-long: setup ## Do random commands and kills on 50 VMs that are processes and 4 microVMs for an hour, all invariants checked
	PEPITA_SOAK_SECONDS=$${PEPITA_SOAK_SECONDS:-3600} cargo test -p pepita-supervisors --test soak -- --nocapture

faults: setup ## Run the long form of the launcher's fault tests
	PEPITA_LONG=1 cargo test -p pepita-launcher -- --nocapture

inject: setup-tests ## Make every single system call of the launcher and the supervisor fail, one after the other
	PEPITA_INJECT_ALL=1 cargo test -p pepita-supervisors --test programs -- --nocapture --include-ignored injection

kills: setup ## Kill the supervisor 1,000 times at random moments, with 20 VMs under a load of commands
	PEPITA_SUPERVISOR_KILLS=1000 cargo test -p pepita-supervisors --test programs -- --nocapture killed_at_random

chaos: setup ## Kill random processes of a supervised tree for five minutes
	PEPITA_CHAOS_SECONDS=300 cargo test -p pepita-supervisors --test programs -- --nocapture random_kills

test-upgrade: setup ## Take over VMs that the programs of commit 445d9af have started
	@./scripts/test-upgrade.sh

test-kernel: setup-tests kernel ## Run the tests that boot microVMs, and redis, nginx and PostgreSQL, on the small guest kernel
	cargo build --quiet --workspace --bins
	PEPITA_TEST_KERNEL=$(CURDIR)/.guest/vmlinux-small cargo test --no-fail-fast --test microvm
	PEPITA_TEST_KERNEL=$(CURDIR)/.guest/vmlinux-small cargo test --no-fail-fast -p pepita-launcher --test containers --test ports \
		--test secrets --test faults
	PEPITA_TEST_KERNEL=$(CURDIR)/.guest/vmlinux-small cargo test -p pepita-supervisors --test programs daemons

test-vhost: setup ## Test kernel vsock: microVMs inside a microVM whose kernel has vhost_vsock
	cargo test --no-run --test microvm
	cargo test --test vhost -- --nocapture

bench-vhost: setup ## Measure the link over kernel vsock, in a microVM inside a microVM
	cargo bench -p pepita-supervisor --bench link --no-run
	cargo test --no-run --test microvm
	PEPITA_VHOST_BENCH=1 cargo test --test vhost -- --nocapture

interop: setup ## Test duende-core's adapter with our launcher, and our adapter in its place
	cd tests/interop/duende-client && CARGO_TARGET_DIR=../../../target/duende cargo test --locked
	cd tests/interop/duende-interop && CARGO_TARGET_DIR=../../../target/duende cargo test --locked

fuzz: ## Fuzz each parser of foreign bytes for a minute (PEPITA_FUZZ_SECONDS), guided by coverage
	@./scripts/fuzz.sh $${PEPITA_FUZZ_SECONDS:-60}

fuzz-smoke: ## Run the seeds of each fuzz target and a few hundred more inputs
	@PEPITA_FUZZ_PROFILE=smoke ./scripts/fuzz.sh runs=300

deny: ## Check all crates against deny.toml with cargo-deny; known weaknesses, too, which needs the internet
	@./scripts/deny.sh

bench: setup ## Run all benches; print each figure beside its baseline, and write them and plots into target/bench
	@./scripts/bench.sh

bench-smoke: setup ## Run each bench with the least numbers, without optimisation, and make the report; no time is asserted
	@./scripts/bench.sh smoke

performance-doc: ## Put the figures of the last `make bench` into docs/performance.md
	cargo run --quiet --release --example bench_report -- target/bench/results.json --document docs/performance.md

bench-scale: ## Measure how a tree grows to 1,000 VMs (plain processes) and to 10,000 in memory: start, kills at once, memory, idle cost
	cargo build --release --workspace --bins
	cargo bench -p pepita-supervisor --bench scale

bench-commands: ## Measure each command of pepitactl with 10 and with 1,000 VMs (plain processes) in one tree
	cargo build --release --workspace --bins
	cargo bench -p pepita-supervisor --bench commands

bench-restart: ## Measure the time from SIGKILL until the daemon runs again, also of other installed supervisors
	cargo build --release --workspace --bins
	cargo bench -p pepita-supervisor --bench restart

bench-ports: setup ## Measure a published port of a microVM beside QEMU's slirp; five minutes of new connections (PEPITA_PORTS_MINUTES)
	cargo build --release --workspace --bins
	cargo bench -p pepita-supervisor --bench ports

bench-images: setup ## Measure `pepita run` of a container image beside our own .cpio image, and the memory of VMs that share a base
	cargo build --release --workspace --bins
	cargo bench -p pepita-supervisor --bench images

bench-recovery: setup ## Measure the time from SIGKILL of a microVM's VMM until its daemon is Ready, with a warm spare and without, and what a spare costs
	cargo build --release --workspace --bins
	cargo bench -p pepita-supervisor --bench recovery

bench-idle: setup ## Measure VMs that sleep: first byte after a pause and a stop, cost at rest, a storm of connections
	cargo build --release --workspace --bins
	cargo bench -p pepita-supervisor --bench idle

bench-jail: setup ## Measure boot, restart and memory of a microVM in its jail beside one in none, with and without a share
	cargo build --release --workspace --bins
	cargo bench -p pepita-supervisor --bench jail
