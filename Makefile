# Every target sets the environment up by itself; nothing is installed outside .venv.
PYTHON ?= python3.11
EXTRAS ?= dev
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(EXTRAS)

.DEFAULT_GOAL := help
.PHONY: help install demo smoke test lint check docs examples format hook clean
.PHONY: fuzz faults cluster publish evidence bench pictures

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# torch first and by itself: a range in another package would take a build with gigabytes of CUDA
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade pip
	$(BIN)/python -m pip install -qq --constraint constraints.txt torch
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

install: $(READY) ## the environment alone; EXTRAS=dev,gpu on a CUDA machine

demo: $(READY) ## data, training, search, report and registry on this machine, in about a quarter of an hour
	$(BIN)/python pipelines/full.py demo

smoke: $(READY) ## every step of the demo in about two minutes, too short to learn anything
	$(BIN)/python pipelines/full.py smoke

# three processes side by side, as most tests wait more than they compute: without Ray, and two with a Ray each
test: $(READY) ## all tests but those of faults and cluster
	@$(BIN)/python -m pytest -m 'not slow' -p no:cacheprovider > $(VENV)/fast-tests.log 2>&1 & fast=$$!; \
	$(BIN)/python -m pytest -m slow tests/integration -p no:cacheprovider > $(VENV)/pipeline-tests.log 2>&1 & whole=$$!; \
	$(BIN)/python -m pytest -m slow --ignore tests/integration; failed=$$?; \
	wait $$fast || failed=1; wait $$whole || failed=1; \
	cat $(VENV)/fast-tests.log $(VENV)/pipeline-tests.log; exit $$failed

lint: $(READY) ## format, lint, types, and which module may import which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

check: lint ## lint and the fast tests; also the pre-commit hook
	$(BIN)/python -m pytest -q -m 'not slow'

docs: $(READY) ## build the documentation under site/; a warning is an error
	$(BIN)/mkdocs build --strict

examples: $(READY) ## run each script of examples/
	@set -e; for example in examples/*.py; do echo "$$example"; $(BIN)/python "$$example"; done

fuzz: ## 2,000 accidents to what each reader reads, then coverage-guided fuzzing of the readers, about 10 minutes
	$(MAKE) install EXTRAS=dev,fuzz
	$(BIN)/python -m pytest -q tests/hostile/test_surfaces.py --hypothesis-profile=fuzz
	$(BIN)/python -m tests.hostile.fuzz 60

format: $(READY) ## rewrite the code in the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

publish: $(READY) ## copy the results of a finished demo under runs/ to benchmarks/results/demo
	$(BIN)/python -m benchmarks.demo

evidence: $(READY) ## hours: every experiment of docs/evidence.md that is not finished
	$(BIN)/python -m benchmarks.evidence
	$(BIN)/python -m benchmarks.evidence.shortcut
	$(BIN)/python -m benchmarks.evidence.breakeven
	$(BIN)/python -m benchmarks.evidence.moonshot

bench: $(READY) ## measure, and write benchmarks/results/*.json
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.reading
	$(BIN)/python -m benchmarks.kernel
	$(BIN)/python -m benchmarks.model
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.depth
	$(BIN)/python -m benchmarks.overhead

faults: $(READY) ## break whole pipelines in every way of docs/reliability.md, and write benchmarks/results/faults.json
	MAKE_FAULTS=1 $(BIN)/python -m pytest tests/faults/test_nodes.py tests/integration/test_full.py
	$(BIN)/python -m benchmarks.faults

cluster: $(READY) ## jobs on two nodes, and ray_cluster.yaml on two machines made of this one: 10 minutes; root, sshd, rsync
	MAKE_CLUSTER=1 $(BIN)/python -m pytest tests/cluster

pictures: ## take docs/pictures anew, from a real run in a real browser (apt-get install chromium)
	$(MAKE) install EXTRAS=dev,pictures
	$(BIN)/python -m benchmarks.pictures

hook: $(READY) ## run `make check` before each commit
	$(BIN)/pre-commit install

clean: ## remove the environment and the caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info build site
