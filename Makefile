# `make demo` and `make test` are the two commands; both install what is missing and say what.
# One set of cargo flags everywhere: nothing is compiled twice. CARGO_TARGET_DIR is honoured.
.DEFAULT_GOAL := help
# What is measured, and what bakes for an hour.
bench bench-bake test-identical: export CARGO_PROFILE_DEV_OPT_LEVEL = 2
.PHONY: help setup build demo demo-vm test soak bench bench-bake test-identical fuzz lint

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## install what every target needs
	@bash tests/scripts/setup.sh build test fleet lint

build: ## compile
	@bash tests/scripts/setup.sh build
	cargo build --locked

demo: build ## the whole story on the local cloud: image, fleet, roll, a bad image, home
	@bash tests/scripts/setup.sh fleet
	@bash tests/scripts/demo.sh

demo-vm: build ## boot the disk of that image in QEMU, by UEFI, and test it there
	@bash tests/scripts/setup.sh vm
	@bash tests/scripts/demo-vm.sh

test: build ## everything, on real machines too
	@bash tests/scripts/setup.sh test fleet
	@bash tests/scripts/test.sh

soak: ## a hundred thousand bakes on bad days, DAYS=100000, each by a seed; hours
	@bash tests/scripts/setup.sh build
	PIAAS_TEST_DAYS=$(or $(DAYS),100000) PIAAS_TEST_SEED=$(or $(SEED),$(shell date +%s)) \
		cargo test --locked --profile soak --test it -- --nocapture bake_flow::storm

bench: build ## how fast it is, beside rivals and promises; wants a quiet host
	@bash tests/scripts/setup.sh bench
	@bash tests/scripts/bench.sh

bench-bake: build ## whole bakes beside mkosi; wants a quiet host, as root
	@bash tests/scripts/setup.sh mkosi
	@bash tests/scripts/bench-bake.sh

test-identical: build ## twenty cold bakes of the shipped recipes with everything around them varied, as root: one disk each
	@bash tests/scripts/test-identical.sh

lint: build ## formatting, clippy, licences, shell, workflows
	@bash tests/scripts/setup.sh lint
	@bash tests/scripts/lint.sh

fuzz: ## look for inputs that break what reads them, FUZZ_SECONDS=60 for each target
	@bash tests/scripts/setup.sh build fuzz
	@bash tests/scripts/fuzz.sh $(FUZZ_TARGETS)
