# make export         convert a TF1 Hub module, a checkpoint or a Hugging Face model, and publish it (default: a demo)
# make release        publish all versions of the catalog that are missing
# make bump           add the next version of a model to the catalog
# make serve          serve the published models, for hub.load and browsers
# make test           run the linters and the tests
# make test-slow      run the slow tests
# make mutants        check that the tests fail for small bugs
# make interop        load converted models in Hugging Face Transformers and KerasHub
# make faults         kill 50 exports at random moments
# make fuzz           give random bytes to each reader for five minutes
# make golden-corpus  compare source and export on a corpus of text
# make bench          compare this tool with other converters on modules of real sizes
# make runtimes       run exports under the oldest and the newest TensorFlow
# make proof-trials   count the verdicts of the proof on right and wrong conversions
# make genuine        export modules by TensorFlow 1.15 and compare them with it
#
# Each target makes the environment that it needs in .venv, from the hash-locked files in requirements/.

# The first Python 3.11 there is that can make virtual environments.
PYTHON ?= $(shell for p in python3.11 python3 /usr/bin/python3.11 /usr/local/bin/python3.11; do \
	"$$p" -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV := .venv
PY := $(VENV)/bin/python
INSTALL := -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes
PIP := $(PY) $(INSTALL)

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
.PHONY: help export release bump serve test test-slow mutants interop faults fuzz bench runtimes genuine proof-trials lint golden golden-corpus lock clean

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
PYTEST := $(PY) -m pytest -q -n auto --maxprocesses=4 --dist worksteal
test: lint
	$(PYTEST) -m "not slow" $(TESTS)

# What takes minutes and seldom breaks: kills at random moments, full disks, whole fleets and corpora, more fuzzing.
test-slow: $(VENV)/.dev
	$(PYTEST) -m slow $(TESTS)
	$(PYTEST) tests/attacks/test_fuzz.py --fuzz_seconds=3

mutants: $(VENV)/.dev
	@$(PY) -m mutants $(FLAGS)

# In an environment of its own: PyTorch, and no TensorFlow.
INTEROP := build/interop
interop: $(VENV)/.dev $(INTEROP)/.installed
	$(PY) -m pytest -q tests/test_interop.py --interop_python=$(INTEROP)/bin/python

$(INTEROP)/.installed: requirements/interop.txt | $(VENV)/.runtime
	"$(PYTHON)" -m venv --clear $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/interop.txt
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps keras-hub==0.32.0
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
# TensorFlow 2.11 has wheels for Python 3.7 to 3.10: the first of them on the PATH, or among pyenv's, that can make virtual environments.
find_python = $(shell pyenvs="$$(pyenv root 2>/dev/null || echo "$${PYENV_ROOT:-$$HOME/.pyenv}")/versions"; \
	for v in $(1); do for p in python$$v "$$pyenvs/$$v".*/bin/python; do \
	"$$p" -c 'import ensurepip, sys; sys.exit("%d.%d" % sys.version_info[:2] != "'$$v'")' 2>/dev/null && echo "$$p" && exit; done; done)
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
	@rm -rf $@
	@$(PY) -m export.demo --output=$@
	@touch $@

$(VENV)/.runtime: requirements/runtime.txt
	$(if $(PYTHON),,$(error no Python 3.11 with venv found: install it, or run make with PYTHON=/path/to/python3.11))
	"$(PYTHON)" -m venv --clear $(VENV)
	$(PIP) -r requirements/runtime.txt
	touch $@

# What runs on Apache Beam.
$(VENV)/.beam: $(VENV)/.runtime requirements/beam.txt
	$(PIP) -r requirements/beam.txt
	touch $@

$(VENV)/.dev: $(VENV)/.beam requirements/dev.txt
	$(PIP) -r requirements/dev.txt
	touch $@

# The plots.
$(VENV)/.bench: $(VENV)/.runtime requirements/bench.txt
	$(PIP) -r requirements/bench.txt
	touch $@

# The peers, each in an environment of its own, as their users install them. One that cannot be installed is named in the table.
$(BENCH)/venv-tf-models/.installed: requirements/peers/tf_models.txt
$(BENCH)/venv-huggingface/.installed: requirements/peers/huggingface.txt
$(BENCH)/venv-%/.installed: | $(VENV)/.runtime
	"$(PYTHON)" -m venv --clear $(@D) && $(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $< && touch $@ || \
		{ rm -rf $(@D); echo "$(@D): cannot be made; the benchmark goes on without it" >&2; }

# Resolves requirements/*.in anew; needs uv (pip install uv). BUILD_NOTES.md says why the overrides are there.
LOCK := uv pip compile --quiet --upgrade --generate-hashes --no-header --no-emit-index-url --python-version=3.11 \
	--python-platform=x86_64-manylinux_2_28 --override=overrides.txt
lock:
	cd requirements && $(LOCK) runtime.in --output-file=runtime.txt && $(LOCK) beam.in --output-file=beam.txt && \
		$(LOCK) dev.in --output-file=dev.txt && \
		$(filter-out --override=%,$(LOCK)) bench.in --output-file=bench.txt && \
		$(LOCK:3.11=3.7) runtimes/tensorflow_2_11.in --output-file=runtimes/tensorflow_2_11.txt && \
		$(filter-out --override=%,$(LOCK:3.11=3.7)) genuine.in --output-file=genuine.txt && \
		$(LOCK) runtimes/tensorflow_2_21.in --output-file=runtimes/tensorflow_2_21.txt

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

clean:
	rm -rf $(VENV) build
