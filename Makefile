# Everything a newcomer and CI do. Files under .venv*/ and build/ whose names start with a dot or
# end in .stamp record what is done, so that a second call starts at once and without a network.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

HOST ?= 127.0.0.1
PORT ?= 8080
TORCH_VERSION ?= 2.13.0
PYTEST_ARGS ?=
BENCH_ARGS ?=

VENV := .venv
TORCH_VENV := .venv-torch
STORE := var/store
PIP := -m pip --quiet --disable-pip-version-check
LOCKED := install --require-hashes --no-deps

SOURCES := $(shell find edge_runtime export_tools fleet -type f ! -name '*.pyc')
BENCH := build/bench
BENCH_MODEL := qwen2.5-0.5b-random
WHEEL := build/wheel.stamp
COMMITTED := $(patsubst models/%/bundle/manifest.json,%,$(wildcard models/*/bundle/manifest.json))
BUILT := minilm-l6

# An imported PYTHONPATH would put the source tree before the installed wheel.
unexport PYTHONPATH

.PHONY: help run bundles test test-runtime test-torch check format bench-http lock clean wheel

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# --- environments ------------------------------------------------------------------------------

$(VENV)/.created:
	scripts/make-venv $(VENV)
	touch $@

$(VENV)/.export: requirements/build.txt requirements/export.txt | $(VENV)/.created
	@echo "installing the runtime and the export tools into $(VENV)"
	$(VENV)/bin/python $(PIP) $(LOCKED) -r requirements/build.txt -r requirements/export.txt
	touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.export
	@echo "installing the development tools into $(VENV)"
	$(VENV)/bin/python $(PIP) $(LOCKED) -r requirements/dev.txt
	touch $@

$(TORCH_VENV)/.created:
	scripts/make-venv $(TORCH_VENV)
	touch $@

# torch comes last and without a hash: each machine has its own build of it (see README, "torch").
$(TORCH_VENV)/.locked: requirements/torch.txt | $(TORCH_VENV)/.created
	@echo "installing the torch side into $(TORCH_VENV)"
	$(TORCH_VENV)/bin/python $(PIP) $(LOCKED) -r requirements/torch.txt
	$(TORCH_VENV)/bin/python $(PIP) install torch==$(TORCH_VERSION)
	touch $@

# --- the wheel ---------------------------------------------------------------------------------

wheel: $(WHEEL) ## build the wheel into build/wheel

$(WHEEL): $(SOURCES) pyproject.toml README.md LICENSE $(VENV)/.export
	rm -rf build/wheel
	$(VENV)/bin/python $(PIP) wheel --no-deps --no-build-isolation --no-index -w build/wheel .
	touch $@

$(VENV)/.wheel: $(WHEEL) $(VENV)/.export
	$(VENV)/bin/python $(PIP) install --no-deps --no-index --force-reinstall build/wheel/*.whl
	touch $@

$(TORCH_VENV)/.wheel: $(WHEEL) $(TORCH_VENV)/.locked
	$(TORCH_VENV)/bin/python $(PIP) install --no-deps --no-index --force-reinstall build/wheel/*.whl
	touch $@

# --- models ------------------------------------------------------------------------------------

bundles: $(STORE)/.installed ## build and install the built-in bundles into var/store

var/bundles/%/manifest.json: models/%/recipe.toml | $(VENV)/.wheel
	rm -rf var/bundles/$*
	mkdir -p var/bundles
	$(VENV)/bin/edge-export build $< --out var/bundles/$*

$(STORE)/.installed: $(BUILT:%=var/bundles/%/manifest.json) $(wildcard models/*/bundle/manifest.json) | $(VENV)/.wheel
	for name in $(BUILT); do $(VENV)/bin/edge-runtime install var/bundles/$$name --store $(STORE); done
	for name in $(COMMITTED); do $(VENV)/bin/edge-runtime install models/$$name/bundle --store $(STORE); done
	touch $@

# --- what people call --------------------------------------------------------------------------

run: $(VENV)/.wheel $(STORE)/.installed ## set up and serve the built-in models on 127.0.0.1:8080
	@exec $(VENV)/bin/python scripts/serve.py --store $(STORE) --host $(HOST) --port $(PORT)

test: test-runtime test-torch ## run every test against the installed wheel

# One thread a process: two workers fill two cores.
test-runtime: $(VENV)/.dev $(VENV)/.wheel $(STORE)/.installed ## run the tests that need no torch
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 --dist loadfile -m "not torch" $(PYTEST_ARGS)

# By file: collecting the others would need the control host's packages in this environment.
test-torch: $(TORCH_VENV)/.wheel ## run the tests marked torch, in an environment of their own
	OMP_NUM_THREADS=1 $(TORCH_VENV)/bin/pytest -n 2 --dist loadfile -m torch $(PYTEST_ARGS) \
		$(shell grep -rl --include=*.py 'mark\.torch' tests)

check: $(VENV)/.dev $(VENV)/.wheel ## lint, type-check, check the borders and the docs
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest -q tests/unit/test_borders.py $(wildcard tests/unit/test_docs*.py)

format: $(VENV)/.dev ## rewrite the sources as the formatter wants them
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# --- figures -----------------------------------------------------------------------------------

bench-http: $(BENCH)/store/.installed $(BENCH)/openvino-int8 $(BENCH)/q8_0.gguf ## tokens/s through HTTP beside OpenVINO GenAI and llama.cpp
	EDGE_MODELS__DEFAULT_SLOTS=16 $(VENV)/bin/python -m benchmarks.http_decode --model $(BENCH_MODEL) \
		--daemon "$(VENV)/bin/edge-runtime serve --store $(BENCH)/store" \
		--peer openvino=$(BENCH)/openvino-int8,DYNAMIC_QUANTIZATION_GROUP_SIZE=128 \
		--peer llama.cpp=$(BENCH)/q8_0.gguf \
		--json $(BENCH)/http.json --markdown $(BENCH)/http.md $(BENCH_ARGS)

$(BENCH)/checkpoint: | $(VENV)/.wheel
	mkdir -p $(BENCH)
	$(VENV)/bin/edge-export synth qwen2.5-0.5b --out $@

$(BENCH)/bundle: | $(BENCH)/checkpoint $(VENV)/.wheel
	$(VENV)/bin/edge-export build $(BENCH)/checkpoint --out $@ --variant int8 --name $(BENCH_MODEL)

$(BENCH)/store/.installed: | $(BENCH)/bundle
	$(VENV)/bin/edge-runtime install $(BENCH)/bundle --store $(BENCH)/store
	touch $@

$(BENCH)/openvino-int8 $(BENCH)/q8_0.gguf: | $(BENCH)/checkpoint
	benchmarks/peers/setup .venv-peers $(BENCH)/checkpoint $@

# --- upkeep ------------------------------------------------------------------------------------

lock: ## write requirements/*.txt anew from pyproject.toml (LOCK_ARGS=--upgrade moves versions)
	scripts/lock $(LOCK_ARGS)

clean: ## remove environments, builds and the local store
	rm -rf $(VENV) $(TORCH_VENV) .venv-lock .venv-peers build var .mypy_cache .ruff_cache .pytest_cache
