# make export    a TF1 Hub module -> a published encoder and its preprocessor
# make test      everything CI runs
#
# Both make the environment they need in .venv, from the hash-locked files in requirements/, and reuse it.

# The first Python 3.11 there is that can make virtual environments.
PYTHON ?= $(shell for p in python3.11 python3 /usr/bin/python3.11 /usr/local/bin/python3.11; do \
	"$$p" -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes

EXPORT_ROOT ?= dist
# Empty: what the catalog says.
SOURCE ?=
MODEL ?=
VERSION ?=
FLAGS ?=

DEMO := build/demo/albert_en_demo

.DELETE_ON_ERROR:
.PHONY: export test lint golden lock clean

ifeq ($(strip $(SOURCE)$(MODEL)),)
# The demo: its module is made on the spot. This very version of it is made anew every time; no other version ever is.
DEMO_VERSION := $(or $(VERSION),2)
DEMO_RELEASE = $(EXPORT_ROOT)/tensorflow/albert_en_demo/$(DEMO_VERSION)
DEMO_COMPANION = $(EXPORT_ROOT)/tensorflow/albert_en_demo_preprocess/3
export: $(VENV)/.runtime $(DEMO)
	$(if $(EXPORT_ROOT),,$(error EXPORT_ROOT is empty: give a directory))
	@rm -rf $(foreach path,"$(DEMO_RELEASE)" "$(DEMO_COMPANION)",$(path) $(path).tar.gz $(path).md $(path).release.json)
	@$(PY) -m export --source=$(DEMO) --model=albert_en_demo --version=$(DEMO_VERSION) --export_root="$(EXPORT_ROOT)" $(FLAGS)
else
export: $(VENV)/.runtime
	@$(PY) -m export --model="$(MODEL)" --export_root="$(EXPORT_ROOT)" \
		$(if $(SOURCE),--source="$(SOURCE)") $(if $(VERSION),--version="$(VERSION)") $(FLAGS)
endif

test: lint
	$(PY) -m pytest -q

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m mypy

$(DEMO): $(VENV)/.runtime $(wildcard export/demo/*.py) assets/demo/corpus.txt
	@rm -rf $@
	@$(PY) -m export.demo --output=$@
	@touch $@

$(VENV)/.runtime: requirements/runtime.txt
	$(if $(PYTHON),,$(error no Python 3.11 with venv found: install it, or run make with PYTHON=/path/to/python3.11))
	"$(PYTHON)" -m venv --clear $(VENV)
	$(PIP) -r requirements/runtime.txt
	touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	$(PIP) -r requirements/dev.txt
	touch $@

# Resolves requirements/*.in anew; needs uv (pip install uv). BUILD_NOTES.md says why the overrides are there.
LOCK := uv pip compile --quiet --upgrade --generate-hashes --no-header --no-emit-index-url --python-version=3.11 \
	--python-platform=x86_64-manylinux_2_28 --override=overrides.txt
lock:
	cd requirements && $(LOCK) runtime.in --output-file=runtime.txt && $(LOCK) dev.in --output-file=dev.txt

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
	@for version in 1 2 3; do $(PY) -m export.golden --record --source=$(DEMO) --preprocessor=$$version \
		--golden=$(GOLDEN)/preprocessor_$$version.json || exit 1; done

clean:
	rm -rf $(VENV) build
