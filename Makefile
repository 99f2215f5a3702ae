# Every job starts here. `make` lists them; Go is all that `make demo` and `make test` need.
SHELL      := bash
empty      :=
space      := $(empty) $(empty)
TESTFLAGS  ?=
FUZZTIME   ?= 30s
# Many tests wait for most of their time, on one processor too.
PARALLEL   := -parallel 8 -timeout 20m
# The tests that make test leaves to make slow, in whatever package. One that is not
# named here any more is run by make test.
SLOW       := ^($(subst $(space),|,$(strip \
	TestBoundaries TestCheckpointModel TestCrash TestDiskFails TestEmptyAnswers TestEndlessBody TestEveryCount \
	TestEveryOperationFails TestEveryStepFails TestHistoryIsBounded TestKilledAndLockLost \
	TestKilledAtEveryOperation TestKilledAtEveryStep TestLimits TestLongMessages TestManifestDamage TestMany \
	TestPaused TestPending TestPowerLoss TestPowerLossAfterKill TestPowerLossAtEveryOperation TestPowerLossModel \
	TestPowerLossNeedsEverySync TestReadCapacityOfARange TestScaleMany TestStoppedAtEachCall TestTroublesMixed TestTwoAtOnce)))$$
LINT       := go tool -modfile=testdata/lint/go.mod golangci-lint
VALE       := go tool -modfile=testdata/prose/go.mod vale
VULNCHECK  := go tool -modfile=testdata/vuln/go.mod govulncheck $(if $(GOVULNDB),-db $(GOVULNDB))
E2E        := ./cmd/dyn2raft/e2e
REPORT     := ./cmd/dyn2raft/report
GORELEASER ?= CGO_ENABLED=0 go tool -modfile=testdata/dist/go.mod goreleaser
COMMAND    := github.com/dyn2raft/dyn2raft/cmd/dyn2raft/command
# What .goreleaser.yaml gives to bin/extra and `make cross` builds with.
VERSION    := 0.0.0-dev
COMMIT     := none
DATE       := 2000-01-01T00:00:00Z
TARGETS    := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
# In CI a real part that is missing is a failure; elsewhere it is said and left out.
REQUIRE    := $(if $(filter true,$(CI)),1,$(DYN2RAFT_REQUIRE_REAL))

export DYN2RAFT_REQUIRE_REAL = $(REQUIRE)

.PHONY: help demo build test slow fuzz race crash browser e2e matrix stopped rehearsal vault aws lint vulncheck docs cross dist bin/extra bench bench-results lines clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

demo: build ## move the Vault of VAULT_BIN or PATH; without one copy and verify a table like a Vault's
	bin/dyn2raft demo

build: ## build bin/dyn2raft
	go build -o bin/dyn2raft ./cmd/dyn2raft

test: ## the tests under the race detector, against AWS's DynamoDB Local too where it can be had; but for make slow
	@$(with_dynamodb_local); go test -race $(PARALLEL) -skip '$(SLOW)' $(TESTFLAGS) ./...

slow: ## those that take long: every crash point, a million entries, every damaged byte
	go test -race $(PARALLEL) -run '$(SLOW)' $(TESTFLAGS) ./...
	@# A million entries, without the race detector.
	go test -run '^TestMany$$' $(TESTFLAGS) ./verify

fuzz: ## run every fuzz target for FUZZTIME=30s; what it finds goes into testdata/fuzz, to be fixed and committed
	@targets=$$(grep -roE --include='*_test.go' '^func Fuzz\w+' . | sed 's|/[^/]*:func |:|' | sort); \
	[ -n "$$targets" ] || { echo "there are no fuzz targets" >&2; exit 1; }; \
	for target in $$targets; do \
		echo "$$target"; \
		go test -run '^$$' -fuzz "^$${target#*:}\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 0s "$${target%:*}" || exit 1; \
	done

race: ## the same tests three times over in shuffled order, to look for rare races
	@$(with_dynamodb_local); go test -race -count=3 -shuffle=on $(TESTFLAGS) ./...

crash: ## kill copies at every durable step and at random, resume them, and compare; KILLS=200, SEED=
	go test -count=1 -timeout 60m -v ./cmd/dyn2raft/crash -args -kills $(or $(KILLS),200) -pauses 50 $(if $(SEED),-seed $(SEED))

browser: ## look at the report in a headless Chromium (in PATH, or $BROWSER)
	go test -tags browser -count=1 -v $(REPORT)

e2e: ## the whole move with a real Vault, three nodes, failover, and vault operator migrate to compare
	@vault=$$(testdata/vault/build) && dynamodb=$$(testdata/dynamodb-local/fetch) && \
	VAULT_BIN=$$vault DYNAMODB_LOCAL=$$dynamodb go test -tags e2e -count=1 -parallel 3 -timeout 30m -v $(TESTFLAGS) $(E2E)

matrix: ## Vault 1.13.2 and 1.21.1, each log store and seal: to Raft, back, and there again
	@vault=$$(testdata/vault/build) && old=$$(testdata/vault/build 1.13.2) && dynamodb=$$(testdata/dynamodb-local/fetch) && \
	VAULT_BIN=$$vault VAULT_OLD_BIN=$$old DYNAMODB_LOCAL=$$dynamodb go test -tags e2e -count=1 -timeout 90m -v $(TESTFLAGS) -run '^TestMatrix$$' $(E2E) -args -matrix

stopped: ## stop three nodes under load 20 times (SEEDS=), and copy from the directories of two
	@vault=$$(testdata/vault/build) && dynamodb=$$(testdata/dynamodb-local/fetch) && \
	VAULT_BIN=$$vault DYNAMODB_LOCAL=$$dynamodb go test -tags e2e -count=1 -timeout 60m -v -run '^TestStoppedNodes$$' $(E2E) -args -stopped-seeds $(or $(SEEDS),20)

rehearsal: build ## the whole runbook on this machine: a real Vault from DynamoDB to three nodes and back
	@vault=$$(testdata/vault/build) || exit 1; \
	[ -n "$$DYNAMODB_ENDPOINT" ] || dynamodb=$$(testdata/dynamodb-local/fetch) || echo "so dyn2raft demo -serve takes its place" >&2; \
	VAULT_BIN=$$vault DYN2RAFT_BIN=$(CURDIR)/bin/dyn2raft DYNAMODB_LOCAL=$$dynamodb docs/rehearsal.sh

aws: build ## try it on the DynamoDB service, on a table of its own: asks first, costs about 0.20 dollars; ENTRIES=, docs/aws.md
	@mkdir -p bin && go build -o bin/aws ./testdata/aws && exec bin/aws -entries $(or $(ENTRIES),100000)

vault: ## build the real Vault of the end-to-end tests into the cache (10 to 18 minutes, once)
	@testdata/vault/build

lint: ## gofmt, go vet, staticcheck, golangci-lint, actionlint, vale on the pages, and the syntax of the scripts
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "not in gofmt's form: $$unformatted"; exit 1; }
	go vet ./... ./.ci/notices ./.ci/lines ./testdata/aws && go vet -tags e2e $(E2E) && go vet -tags browser $(REPORT)
	go tool staticcheck ./... && go tool staticcheck -tags e2e $(E2E) && go tool staticcheck -tags browser $(REPORT)
	$(LINT) run ./...
	go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
	$(VALE) --output=line README.md docs/*.md
	@! $(VALE) --output=line testdata/prose/wrong.md >/dev/null || { echo "vale finds nothing wrong with testdata/prose/wrong.md"; exit 1; }
	@for script in .ci/run .ci/check-dist docs/*.sh testdata/*/build testdata/*/fetch; do bash -n $$script || exit 1; done

vulncheck: ## look for known vulnerabilities in what is called, where Go's database of them can be reached
	@out=$$($(VULNCHECK) ./... 2>&1); status=$$?; echo "$$out"; \
	case $$out in *"govulncheck: fetching vulnerabilities"*) \
		echo "SKIPPED: the search for known vulnerabilities, since their database can't be reached. GOVULNDB=URL names another." >&2; exit;; \
	esac; exit $$status

bench: ## measure everything that has a goal, and fail where it is slower than bench/RESULTS.md
	@set -o pipefail; $(measure) | tee /dev/stderr | go run ./bench/results $(BENCH_WRITE:1=-write)

bench-results: ## the same, and write bench/RESULTS.md; with VAULT_BIN and BENCH_GROWTH=10000000 all of it (an hour)
	@$(MAKE) --no-print-directory bench BENCH_WRITE=1

lines: ## count the lines of code of AT=HEAD, by package, without comments and tests
	@go run ./.ci/lines $(or $(AT),HEAD)

docs: ## write docs/commands.md from the commands themselves, and docs/errors.md from the errors' codes
	@mkdir -p bin
	go run ./cmd/dyn2raft docs markdown >bin/commands.md && go run ./cmd/dyn2raft docs errors >bin/errors.md && mv bin/commands.md bin/errors.md docs/

cross: bin/extra ## build static programs for Linux and macOS, amd64 and arm64, into bin/cross
	@for target in $(TARGETS); do \
		echo "$$target"; export CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/}; \
		go build -trimpath -ldflags='$(release_ldflags)' -o bin/cross/dyn2raft_$${GOOS}_$$GOARCH ./cmd/dyn2raft || exit 1; \
	done
	CGO_ENABLED=0 GOOS=darwin GOARCH=arm64 go vet -trimpath ./...
	@.ci/check-dist cross '$(release_ldflags)'

dist: ## build the packages of a release into dist/ and look at them; goreleaser is built first (8 minutes, once)
	$(if $(shell git remote 2>/dev/null),,$(as_if_cloned)) $(GORELEASER) release --snapshot --clean --parallelism 2
	@.ci/check-dist dist

# The manual page, the completion scripts, and the licences of what is linked, as packages have them.
bin/extra:
	@rm -rf bin/extra && mkdir -p bin/extra/completions
	@CGO_ENABLED=0 go build -trimpath -ldflags='$(release_ldflags)' -o bin/extra/dyn2raft ./cmd/dyn2raft
	@go run ./.ci/notices $(TARGETS) >bin/extra/NOTICES
	@cd bin/extra && ./dyn2raft docs man >dyn2raft.1 && ./dyn2raft completion bash >completions/dyn2raft.bash && \
	./dyn2raft completion zsh >completions/_dyn2raft && ./dyn2raft completion fish >completions/dyn2raft.fish

clean: ## remove bin/ and dist/; what was fetched or built for tests stays in ~/.cache/dyn2raft
	rm -rf bin dist

release_ldflags = -s -w -X $(COMMAND).version=$(VERSION) -X $(COMMAND).commit=$(COMMIT) -X $(COMMAND).date=$(DATE)

# Without a remote goreleaser would take neither commit nor date from git.
as_if_cloned = GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=remote.origin.url GIT_CONFIG_VALUE_0=https://github.com/dyn2raft/dyn2raft.git

# The benchmarks that bench/results knows. With VAULT_BIN set vault operator migrate is
# measured too (15 minutes), with BENCH_GROWTH=10000000 a table of so many entries (9 minutes).
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
