# make export         convert a TF1 Hub module, a checkpoint or a Hugging Face model, and publish it (default: a demo)
# make release        publish all versions of the catalog that are missing
# make bump           add the next version of a model to the catalog
# make serve          serve the published models, for hub.load and browsers
# make test           run the linters and the tests
# make test-slow      run the slow tests
# make mutants        check that the tests fail for small bugs
# make interop        load converted models in Transformers, KerasHub, Optimum, transformers.js and LiteRT
# make faults         kill 50 exports at random moments
# make fuzz           give random bytes to each reader for five minutes
# make golden-corpus  compare source and export on a corpus of text
# make bench          compare this tool with other converters on modules of real sizes
# make runtimes       run exports under the oldest and the newest TensorFlow
# make users          run the Python of README, docs and cards in environments made by their install line
# make proof-trials   count the verdicts of the proof on right and wrong conversions
# make docs           write the tables of flags in docs/export.md
# make genuine        export modules by TensorFlow 1.15 and compare them with it
#
# Each target makes the environment that it needs in .venv, from the hash-locked files in requirements/.

# The first Python of the given versions that can make virtual environments: on the PATH, in the usual places, or among pyenv's.
find_python = $(shell pyenvs="$$(pyenv root 2>/dev/null || echo "$${PYENV_ROOT:-$$HOME/.pyenv}")/versions"; \
	for v in $(1); do for p in python$$v python3 /usr/bin/python$$v /usr/local/bin/python$$v /opt/homebrew/bin/python$$v \
	"$$pyenvs/$$v".*/bin/python; do \
	"$$p" -c 'import ensurepip, sys; sys.exit("%d.%d" % sys.version_info[:2] != "'$$v'")' 2>/dev/null && echo "$$p" && exit; done; done)
PYTHON ?= $(call find_python,3.11 3.12 3.13)
VENV := .venv
PY := $(VENV)/bin/python
INSTALL := -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes
# Shows what it does: the environment, what is installed, the lock.
LOCKED := requirements/install.py $(VENV)

EXPORT_ROOT ?= dist
# Empty: what the catalog says.
SOURCE ?=
MODEL ?=
VERSION ?=
FLAGS ?=
# For bump: what is new. Read by the shell from its environment, so that it may hold quotes.
export CHANGE ?=
# For release.
CATALOG ?= assets/catalog.yaml
# For serve.
PORT ?= 8501

DEMO := build/demo/albert_en_demo

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help export release bump serve test test-slow mutants interop faults fuzz bench runtimes users genuine proof-trials lint golden golden-corpus docs lock clean

# The lines at the top of this file.
help:
	@sed -n 's/^# \(make [a-z-]*\)/\1/p' $(firstword $(MAKEFILE_LIST))

ifeq ($(strip $(SOURCE))$(filter-out albert_en_demo,$(MODEL)),)
DEMO_VERSION := $(or $(VERSION),2)
DEMO_ROOT = $(EXPORT_ROOT)/tensorflow/albert_en_demo
# The demo. A version that exists with the same bytes is kept, so that `make export` works any number of times.
export: $(VENV)/.runtime $(DEMO)
	$(if $(EXPORT_ROOT),,$(error EXPORT_ROOT is empty: give a directory))
	@$(PY) -m export --source=$(DEMO) --model=albert_en_demo --version="$(DEMO_VERSION)" --export_root="$(EXPORT_ROOT)" \
		--breaking --keep_existing $(FLAGS)
else
export: $(VENV)/.runtime
	@$(PY) -m export --model="$(MODEL)" --export_root="$(EXPORT_ROOT)" \
		$(if $(SOURCE),--source="$(SOURCE)") $(if $(VERSION),--version="$(VERSION)") $(FLAGS)
endif

release: $(VENV)/.beam
	@$(PY) -m export.fleet --catalog="$(CATALOG)" --export_root="$(EXPORT_ROOT)" $(FLAGS)

bump: $(VENV)/.runtime
	@$(PY) -m export.bump --model="$(MODEL)" --change="$$CHANGE" $(FLAGS)

serve: $(VENV)/.runtime
	@exec $(PY) -m export.serve --export_root="$(EXPORT_ROOT)" --port="$(PORT)" $(FLAGS)

# One worker for each processor, four at most: each takes 2 GB. TESTS='-p randomly tests/test_golden.py' for others, or another order.
TESTS ?=
# In processes that write no SavedModel: with onnxruntime-extensions loaded, TensorFlow writes broken ones.
APART := tests/test_onnx_text.py
PYTEST := $(PY) -m pytest -q -n auto --maxprocesses=4 --dist worksteal
test: lint
	$(PYTEST) -m "not slow" --ignore=$(APART) $(TESTS)

# What takes minutes and seldom breaks: kills at random moments, full disks, whole fleets and corpora, more fuzzing.
test-slow: $(VENV)/.dev
	$(PYTEST) -m slow --ignore=$(APART) $(TESTS)
	$(PYTEST) $(APART)
	$(PYTEST) tests/attacks/test_fuzz.py --fuzz_seconds=3

mutants: $(VENV)/.dev
	@$(PY) -m mutants $(FLAGS)

# In environments of their own: PyTorch, and no TensorFlow. Optimum needs an older Transformers than the newest.
INTEROP := build/interop
OPTIMUM := build/interop_optimum
NODE_MODULES := build/interop_node/node_modules
NPM := $(shell command -v npm)
interop: $(VENV)/.dev $(INTEROP)/.installed $(OPTIMUM)/.installed $(if $(NPM),$(NODE_MODULES)/.installed)
	$(if $(NPM),,@echo "npm: not found, so transformers.js is not run; install Node.js" >&2)
	$(PY) -m pytest -q tests/test_interop.py --interop_python=$(INTEROP)/bin/python \
		--optimum_python=$(OPTIMUM)/bin/python $(if $(NPM),--node_modules=$(NODE_MODULES))

$(INTEROP)/.installed: requirements/interop.txt | $(VENV)/.runtime
	"$(PYTHON)" -m venv --clear $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/interop.txt
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps keras-hub==0.32.0
	touch $@

$(OPTIMUM)/.installed: requirements/interop_optimum.txt | $(VENV)/.runtime
	"$(PYTHON)" -m venv --clear $(OPTIMUM)
	$(OPTIMUM)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/interop_optimum.txt
	touch $@

# ONNX Runtime's script would download CUDA; its package has the library for processors.
$(NODE_MODULES)/.installed: requirements/interop_node/package.json requirements/interop_node/package-lock.json
	@rm -rf $(dir $(NODE_MODULES)) && mkdir -p $(dir $(NODE_MODULES)) && cp $^ $(dir $(NODE_MODULES))
	npm ci --prefix $(dir $(NODE_MODULES)) --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

# SEED=2 tries others.
SEED ?= 1
faults: $(VENV)/.dev
	$(PY) -m pytest -q tests/attacks/test_run.py -k "41 or 42 or 43" --kills=50 --seed="$(SEED)" --timeout=3600

fuzz: $(VENV)/.dev
	$(PY) -m pytest -q -s tests/attacks/test_fuzz.py --fuzz_seconds=300 --seed="$(SEED)" --timeout=3600

# About two hours for all sizes. FLAGS=--resume goes on where it was ended.
SIZES ?= base,large,xlarge,xxlarge
ROUNDS ?= 3
BENCH := build/bench
bench: $(VENV)/.bench $(BENCH)/venv-tf-models/.installed $(BENCH)/venv-huggingface/.installed
	@$(PY) -m benchmarks --sizes="$(SIZES)" --rounds="$(ROUNDS)" --work_dir=$(BENCH) $(FLAGS)

# Two environments of 1.5 GB each. FLAGS=--size=base for modules of a real size.
RUNTIMES := build/runtimes
# TensorFlow 2.11 has wheels for Python 3.7 to 3.10.
OLD_PYTHON ?= $(call find_python,3.10 3.9 3.8 3.7)
runtimes: $(VENV)/.runtime $(RUNTIMES)/tensorflow-2.11/.installed $(RUNTIMES)/tensorflow-2.21/.installed
	@$(PY) -m runtimes --environments=$(RUNTIMES)/tensorflow-2.11,$(RUNTIMES)/tensorflow-2.21 --work_dir=$(RUNTIMES) $(FLAGS)

$(RUNTIMES)/tensorflow-2.11/.installed: requirements/runtimes/tensorflow_2_11.txt
	@python="$(OLD_PYTHON)"; if [ -z "$$python" ]; then rm -rf $(@D); \
		echo "no Python 3.7 to 3.10 found, so nothing is run under TensorFlow 2.11: install one, or give OLD_PYTHON=/path/to/python3.10" >&2; else \
		"$$python" -m venv --clear $(@D) && $(@D)/bin/python $(INSTALL) -r $< && touch $@; fi

$(RUNTIMES)/tensorflow-2.21/.installed: requirements/runtimes/tensorflow_2_21.txt | $(VENV)/.runtime
	"$(PYTHON)" -m venv --clear $(@D)
	$(@D)/bin/python $(INSTALL) -r $<
	touch $@

# What a model's user has, made anew by each run: three environments of 2.3 GB. USER_PYTHONS=3.12 makes one.
USER_PYTHONS ?= 3.11 3.12 3.13
comma := ,
empty :=
users: $(VENV)/.runtime
	$(foreach v,$(USER_PYTHONS),$(if $(call find_python,$(v)),,$(error no Python $(v) with venv found: install it, or run make with USER_PYTHONS="3.11 3.12")))
	@$(PY) -m runtimes.users --work_dir=build/users $(FLAGS) \
		--pythons="$(subst $(empty) $(empty),$(comma),$(foreach v,$(USER_PYTHONS),$(call find_python,$(v))))"

# TensorFlow 1.15.5 has wheels for Python 3.7, and no newer one. 1 GB. FLAGS='--size=large --kinds=einsum,matmul' for other modules.
PYTHON37 ?= $(call find_python,3.7)
GENUINE := build/genuine
genuine: $(VENV)/.runtime $(GENUINE)/venv/.installed
	@$(PY) -m genuine --python=$(GENUINE)/venv/bin/python --work_dir=$(GENUINE) $(FLAGS)

$(GENUINE)/venv/.installed: requirements/genuine.txt
	$(if $(PYTHON37),,$(error no Python 3.7 with venv found, which TensorFlow 1.15 needs: install it, or run make with PYTHON37=/path/to/python3.7))
	"$(PYTHON37)" -m venv --clear $(@D)
	$(@D)/bin/python $(INSTALL) -r $<
	@touch $@

# Half an hour. TRIALS='--size=base --seeds=3 --wrong_share=0.34' for other modules.
TRIALS ?= --size=tiny --seeds=25 --wrong_share=0.04
proof-trials: $(VENV)/.runtime
	@$(PY) -m trials $(TRIALS)

lint: $(VENV)/.dev
	$(PY) -m ruff format --check --quiet .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-cache --no-logo setup.cfg

$(DEMO): $(VENV)/.runtime $(wildcard export/demo/*.py) assets/demo/corpus.txt
	@test ! -e $@ -o -e $@/tfhub_module.pb || { echo "error: $@: not a demo module; give another DEMO" >&2; exit 1; }
	@rm -rf $@
	@$(PY) -m export.demo --output=$@
	@touch $@

$(VENV)/.runtime: requirements/runtime.txt
	$(if $(PYTHON),,$(error no Python 3.11, 3.12 or 3.13 with venv found: install one, or run make with PYTHON=/path/to/python3.13))
	@"$(PYTHON)" $(LOCKED) "about 80 packages, 2 GB, one to two minutes" $< --clear
	@touch $@

# What runs on Apache Beam.
$(VENV)/.beam: $(VENV)/.runtime requirements/beam.txt
	@$(PY) $(LOCKED) "Apache Beam, 20 packages, 0.3 GB" requirements/beam.txt
	@touch $@

# What reads and runs ONNX files.
$(VENV)/.onnx: $(VENV)/.runtime requirements/onnx.txt
	@$(PY) $(LOCKED) "ONNX, 5 packages, 0.1 GB" requirements/onnx.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.beam $(VENV)/.onnx requirements/dev.txt
	@$(PY) $(LOCKED) "what tests need, 30 packages, 0.3 GB" requirements/dev.txt
	@touch $@

# The plots.
$(VENV)/.bench: $(VENV)/.runtime requirements/bench.txt
	@$(PY) $(LOCKED) "what plots need, 10 packages" requirements/bench.txt
	@touch $@

# The peers, each in an environment of its own, as their users install them. One that cannot be installed is named in the table.
$(BENCH)/venv-tf-models/.installed: requirements/peers/tf_models.txt
$(BENCH)/venv-huggingface/.installed: requirements/peers/huggingface.txt
$(BENCH)/venv-%/.installed: | $(VENV)/.runtime
	"$(PYTHON)" -m venv --clear $(@D) && $(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $< && touch $@ || \
		{ rm -rf $(@D); echo "$(@D): cannot be made; the benchmark goes on without it" >&2; }

# Resolves requirements/*.in again, for all Pythons and platforms at once. UPGRADE= keeps the versions that are locked and allowed.
UPGRADE ?= --upgrade
LOCK := ../$(VENV)/bin/uv pip compile --quiet $(UPGRADE) --generate-hashes --no-header --no-emit-index-url
UNIVERSAL := $(LOCK) --universal --python-version=3.11
# For environments of one Python on x86-64 Linux.
LINUX := $(LOCK) --python-platform=x86_64-manylinux_2_28
FEWER := --override=overrides.txt --excludes=excludes.txt
lock: $(VENV)/.dev
	cd requirements && $(UNIVERSAL) $(FEWER) runtime.in --output-file=runtime.txt && \
		$(UNIVERSAL) $(FEWER) beam.in --output-file=beam.txt && \
		$(UNIVERSAL) $(FEWER) onnx.in --output-file=onnx.txt && \
		$(UNIVERSAL) $(FEWER) dev.in --output-file=dev.txt && \
		$(UNIVERSAL) bench.in --output-file=bench.txt && \
		$(LINUX) --python-version=3.7 $(FEWER) runtimes/tensorflow_2_11.in --output-file=runtimes/tensorflow_2_11.txt && \
		$(LINUX) --python-version=3.7 genuine.in --output-file=genuine.txt && \
		$(LINUX) --python-version=3.11 $(FEWER) runtimes/tensorflow_2_21.in --output-file=runtimes/tensorflow_2_21.txt

# The golden files that tests compare with, recorded anew: says what moved. Look at it before you commit it.
GOLDEN := tests/golden
GOLDEN_MODULE = $(PY) -m export.demo --output=build/golden/$(1) --size=tiny $(2) && \
	$(PY) -m export.golden --record --source=build/golden/$(1) --golden=$(GOLDEN)/$(1).json
golden: $(VENV)/.runtime $(DEMO)
	@rm -rf build/golden
	@$(PY) -m export.golden --record --source=$(DEMO) --golden=$(GOLDEN)/albert_en_demo.json
	@$(call GOLDEN_MODULE,interface_1,--seed=1 --nomlm --nosop)
	@$(call GOLDEN_MODULE,interface_2,--seed=2 --nosop)
	@$(call GOLDEN_MODULE,interface_3,--seed=3)
	@for version in 1 2 3 4; do $(PY) -m export.golden --record --source=$(DEMO) --preprocessor=$$version \
		--golden=$(GOLDEN)/preprocessor_$$version.json || exit 1; done

# A test compares the tables with --help.
docs: $(VENV)/.runtime
	@$(PY) -m docs.flags

# Without SOURCE and RELEASE, the demo's, which is made if it is not there. CORPUS may be several globs, with commas.
CORPUS ?= assets/demo/corpus.txt
RELEASE ?=
OUTPUT ?= build/golden-corpus
ifeq ($(strip $(SOURCE)$(RELEASE)),)
golden-corpus: $(VENV)/.beam $(DEMO)
	@test -e "$(DEMO_ROOT)/$(DEMO_VERSION).release.json" || $(MAKE) --no-print-directory export
	@$(PY) -m export.golden --corpus="$(CORPUS)" --source=$(DEMO) --release="$(DEMO_ROOT)/$(DEMO_VERSION)" --output="$(OUTPUT)" $(FLAGS)
else
golden-corpus: $(VENV)/.beam
	@$(PY) -m export.golden --corpus="$(CORPUS)" --source="$(SOURCE)" --release="$(RELEASE)" --output="$(OUTPUT)" $(FLAGS)
endif

# What this file makes, and nothing else: an export root may be in build/.
clean:
	@test ! -e "$(VENV)/pyvenv.cfg" || rm -rf "$(VENV)"
	@rm -rf build/demo build/bench build/genuine build/runtimes build/interop build/golden-corpus build/lib build/bdist.*
	@rmdir build 2>/dev/null || true
