# Every job starts here. `make` lists them; Go is all that `make demo` and `make test` need.
SHELL      := bash
TESTFLAGS  ?=
LINT       := go tool -modfile=testdata/lint/go.mod golangci-lint
E2E        := ./cmd/dyn2raft/e2e
# In CI a real part that is missing is a failure; elsewhere it is said and left out.
REQUIRE    := $(if $(filter true,$(CI)),1,$(DYN2RAFT_REQUIRE_REAL))

export DYN2RAFT_REQUIRE_REAL = $(REQUIRE)

.PHONY: help demo build test race crash browser e2e vault lint bench bench-results clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

demo: build ## serve a table like Vault's, copy it, verify the copy, show the result
	bin/dyn2raft demo

build: ## build bin/dyn2raft
	go build -o bin/dyn2raft ./cmd/dyn2raft

test: ## all tests under the race detector, against AWS's DynamoDB Local too where it can be had
	@$(with_dynamodb_local); go test -race $(TESTFLAGS) ./...

race: ## the same tests three times over in shuffled order, to look for rare races
	@$(with_dynamodb_local); go test -race -count=3 -shuffle=on $(TESTFLAGS) ./...

crash: ## kill copies at every durable step and at random, go on with them, and compare; KILLS=200, SEED=
	go test -count=1 -timeout 60m -v ./cmd/dyn2raft/crash -args -kills $(or $(KILLS),200) $(if $(SEED),-seed $(SEED))

browser: ## look at the report in a headless Chromium (in PATH, or $BROWSER)
	go test -tags browser -count=1 -v ./cmd/dyn2raft/report

e2e: ## the whole move with a real Vault, three nodes, failover, and vault operator migrate to compare
	@vault=$$(testdata/vault/build) && dynamodb=$$(testdata/dynamodb-local/fetch) && \
	VAULT_BIN=$$vault DYNAMODB_LOCAL=$$dynamodb go test -tags e2e -count=1 -timeout 15m -v $(TESTFLAGS) $(E2E)

vault: ## build the real Vault of the end-to-end tests into the cache (10 to 18 minutes, once)
	@testdata/vault/build

lint: ## gofmt, go vet, staticcheck, golangci-lint, and the syntax of the scripts
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "not in gofmt's form: $$unformatted"; exit 1; }
	go vet ./... && go vet -tags e2e $(E2E)
	go tool staticcheck ./... && go tool staticcheck -tags e2e $(E2E)
	$(LINT) run ./...
	@for script in .ci/run testdata/*/build testdata/*/fetch; do bash -n $$script || exit 1; done

bench: ## measure everything that has a goal, and fail where it is slower than bench/RESULTS.md
	@set -o pipefail; $(measure) | tee /dev/stderr | go run ./bench/results $(BENCH_WRITE:1=-write)

bench-results: ## the same, and write bench/RESULTS.md; with VAULT_BIN and BENCH_GROWTH=10000000 all of it (25 minutes)
	@$(MAKE) --no-print-directory bench BENCH_WRITE=1

clean: ## remove bin/; what was fetched or built for tests stays in ~/.cache/dyn2raft
	rm -rf bin

# The benchmarks that bench/results knows. With VAULT_BIN set vault operator migrate is
# measured too (15 minutes), with BENCH_GROWTH=10000000 a table of so many entries (5 minutes).
define measure
{ go test -run '^$$' -bench DecodePage -benchmem -count 3 ./sources/dynamodb && \
go test -run '^$$' -bench 'Load$$' -benchtime 9x ./sinks/raft/boltfile && \
go test -run '^$$' -bench . -benchtime 5x -timeout 90m ./bench -growth=$(or $(BENCH_GROWTH),0); }
endef

# A shell fragment that sets DYNAMODB_LOCAL, or says loudly that it can't.
define with_dynamodb_local
if dir=$$(testdata/dynamodb-local/fetch); then export DYNAMODB_LOCAL=$$dir; \
elif [ -n "$(REQUIRE)" ]; then echo "and it is required here (CI=true or DYN2RAFT_REQUIRE_REAL=1)" >&2; exit 1; \
else unset DYNAMODB_LOCAL; echo "SKIPPED: the tests against AWS's DynamoDB Local, for the reason above. All others run." >&2; fi
endef
