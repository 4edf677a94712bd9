# The only door: `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

MODULES := proto internal services/gateway services/query services/storage services/live services/allinone tests
# DuckDB's Arrow functions need the tag in every build that links the query role.
TAGS := duckdb_arrow
TESTTAGS := duckdb_arrow,invariants
# cgo links DuckDB statically (C++) and compiles PostgreSQL's parser.
export CGO_ENABLED := 1

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X main.version=$(VERSION)

DATA ?= ../shared/data/ubuntu-irc
ROUNDS ?= 10
DIR ?= certs
USERS ?= 100000
RUNS ?= 120
SEEDS ?= 50
TARGET ?= cluster
TIMES ?= 9
# The version an upgrade starts from.
FROM ?= $(shell git describe --tags --abbrev=0 2>/dev/null)
FUZZTIME ?= 10m

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-zA-Z_-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: toolchain
toolchain:
	@command -v go >/dev/null || { echo "Go 1.26 or newer is needed: https://go.dev/dl"; exit 1; }
	@command -v gcc >/dev/null && command -v g++ >/dev/null || { echo "gcc and g++ are needed (Debian: apt-get install build-essential)"; exit 1; }

.PHONY: build
build: toolchain ## build the server and the nodes of a cluster into bin/
	go build -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/kalamdb ./services/allinone/cmd/kalamdb
	go build -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/kalamdb-certs ./services/allinone/cmd/kalamdb-certs
	@for r in storage query live gateway; do \
	  go build -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/kalamdb-$$r ./services/$$r/cmd/$$r || exit 1; done

.PHONY: run
run: build ## build and run the server (KALAMDB_* variables pass through; ARGS='--help')
	exec ./bin/kalamdb $(ARGS)

.PHONY: certs
certs: build ## make a development authority and certificates for all roles in DIR
	./bin/kalamdb-certs --dir '$(DIR)'

.PHONY: cluster
cluster: build ## run a cluster on this machine: 3 storage, 2 query, 2 live, 2 gateway processes (Ctrl-C stops it)
	go run -tags $(TAGS) ./tests/cmd/cluster -bin bin $(ARGS)

.PHONY: test
test: toolchain ## all tests with the race detector and invariant checks
	go test -race -timeout 20m -tags $(TESTTAGS) work

.PHONY: check
check: fmt-check vet check-mods check-gen test smoke ## everything CI and a reviewer would ask for

.PHONY: fmt
fmt: ## format the code
	gofmt -w $(MODULES)

.PHONY: fmt-check
fmt-check:
	@bad=$$(gofmt -l $(MODULES) tools); if [ -n "$$bad" ]; then echo "not formatted (make fmt): $$bad"; exit 1; fi

.PHONY: vet lint
vet: toolchain
	go vet -tags $(TESTTAGS) work
lint: vet fmt-check bin/buf ## vet, format and buf lint
	cd proto && PATH="$(CURDIR)/bin:$$PATH" buf lint

.PHONY: check-mods
check-mods: toolchain ## each module builds without the workspace, and tidy changes nothing
	@for m in $(MODULES); do echo "$$m"; \
	  (cd $$m && GOWORK=off go build -tags $(TAGS) ./... && GOWORK=off go mod tidy -diff) || exit 1; done

.PHONY: tidy
tidy: ## go mod tidy in every module
	@for m in $(MODULES) tools; do echo "$$m"; (cd $$m && GOWORK=off go mod tidy) || exit 1; done
	go work sync

bin/buf: tools/go.mod tools/go.sum
	cd tools && GOWORK=off go build -o ../bin/ tool
	@touch bin/buf

.PHONY: gen
gen: bin/buf ## generate code from the .proto files
	cd proto && PATH="$(CURDIR)/bin:$$PATH" buf lint && PATH="$(CURDIR)/bin:$$PATH" buf generate

.PHONY: check-gen
check-gen: gen breaking ## generated code is current, and the wire contract is not broken
	@git diff --exit-code -- proto || { echo "generated code is not committed: run make gen"; exit 1; }

.PHONY: breaking
breaking: bin/buf ## compare the wire contract with the last release (or the last commit)
	@base=$$(git describe --tags --abbrev=0 2>/dev/null || git rev-parse HEAD); \
	  cd proto && PATH="$(CURDIR)/bin:$$PATH" buf breaking --against "$(CURDIR)/.git#ref=$$base,subdir=proto"

.PHONY: demo
demo: build ## load real chat data and show what the database does (DATA=folder, URL=running server)
	go run -tags $(TAGS) ./tests/cmd/demo -data '$(DATA)' $(if $(URL),-url '$(URL)') -server bin/kalamdb $(ARGS)

.PHONY: crash
crash: build ## kill -9 the server under load, ROUNDS times, and check that nothing is lost
	go run -tags $(TAGS) ./tests/cmd/crash -rounds $(ROUNDS) -server bin/kalamdb

.PHONY: build-faults
build-faults: build # a storage node whose clock tests can turn; nobody runs it otherwise
	@mkdir -p bin/faults
	go build -tags $(TAGS),faults -ldflags '$(LDFLAGS)' -o bin/faults/kalamdb-storage ./services/storage/cmd/storage

.PHONY: robustness
robustness: build-faults ## random load on a cluster while it is being broken, RUNS times 30 s, histories checked (TARGET=netns, as root: a real network)
	go run -tags $(TAGS) ./tests/cmd/robustness -bin bin -target $(TARGET) -runs $(RUNS) $(ARGS)

.PHONY: metamorphic
metamorphic: toolchain ## the same random statements under eleven configurations, SEEDS times 400, every answer compared
	go test -timeout 3h -tags $(TESTTAGS) ./tests/metamorphic -args -seeds $(SEEDS)

.PHONY: test-azure
test-azure: toolchain ## the object store's tests against Azurite, which npm installs into bin/
	tests/azure.sh

.PHONY: planted
planted: build ## plant a bug of each kind and show that the robustness runs catch it
	tests/planted.sh bin

.PHONY: upgrade
upgrade: build ## replace a cluster's nodes of the version FROM (the last tag) by the present ones, under load, and back
	@[ -n '$(FROM)' ] || { echo "no tag is here to upgrade from: give a commit, make upgrade FROM=23cb657, or fetch the tags"; exit 1; }
	@git rev-parse --quiet --verify '$(FROM)^{commit}' >/dev/null || { echo "FROM=$(FROM) is no commit here"; exit 1; }
	@old=$$(mktemp -d); trap 'git worktree remove --force "$$old/src" 2>/dev/null || true; rm -rf "$$old"' EXIT; trap 'exit 1' INT TERM; \
	  git worktree add --quiet --detach "$$old/src" '$(FROM)'; \
	  for r in storage query live gateway; do \
	    (cd "$$old/src" && go build -tags $(TAGS) -ldflags "-X main.version=$$(git describe --tags --always)" -o "$$old/bin/kalamdb-$$r" ./services/$$r/cmd/$$r); done; \
	  go run -tags $(TAGS) ./tests/cmd/upgrade -from "$$old/bin" -to bin $(ARGS)

.PHONY: reshape
reshape: build ## a fourth storage node joins a loaded cluster, one is drained and leaves, one loses its disk: no client sees an error
	go run -tags $(TAGS) ./tests/cmd/reshape -bin bin $(ARGS)

.PHONY: failover
failover: build ## break a shard's leader in seven ways, TIMES each, and report the pauses (root; hosts and disks of their own)
	go run -tags $(TAGS) ./tests/cmd/failover -bin bin -times $(TIMES)

.PHONY: scale
scale: build ## give USERS users a row each and measure what they cost
	go run -tags $(TAGS) ./tests/cmd/scale -users $(USERS) -server bin/kalamdb

.PHONY: idle
idle: build ## what a Raft group costs that nobody writes to, and requests cost each role, for docs/scaling.md (ARGS='-json file')
	go run -tags $(TAGS) ./tests/cmd/idle -bin bin $(ARGS)

.PHONY: bench
bench: build ## W1, W2, W4, W5, W6, W8, W11 against the floor, PostgreSQL and etcd (apt-get install postgresql etcd-server)
	go run -tags $(TAGS) ./tests/cmd/bench -server bin/kalamdb

.PHONY: fuzz
fuzz: toolchain ## every fuzz target for FUZZTIME each
	tests/fuzz.sh $(FUZZTIME)

.PHONY: smoke
smoke: build-faults ## short runs of the heavy targets
	go run -tags $(TAGS) ./tests/cmd/crash -rounds 2 -server bin/kalamdb
	go run -tags $(TAGS) ./tests/cmd/robustness -bin bin -target cluster -runs 1 -duration 15s
	tests/fuzz.sh 5s

.PHONY: clean
clean: ## remove what was built (not the data)
	rm -rf bin

include deploy/deploy.mk
