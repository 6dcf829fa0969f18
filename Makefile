# Each target first installs what it needs into .venv. It installs again only if settings.ini or setup.py has changed.
PYTHON ?= python3
VENV   = .venv
BIN    = $(VENV)/bin
# Tutorials that make test skips and make test-all runs
SLOW   = 0[2347]_(inside|all_methods|catalogue|extending)
PIP    = $(BIN)/python -m pip --disable-pip-version-check
CHECK  = import sys; sys.exit(None if sys.version_info >= (3, 10) else "error: this is Python %d.%d, but 3.10 or newer is needed. Choose another one: make demo PYTHON=python3.12" % sys.version_info[:2])

# Always keep compiled modules (.pyc): without them, importing torch and open_clip takes 20 seconds instead of 8.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo app demo-shop test coverage test-all test-lowest test-milvus lab docs clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/'

$(VENV)/.installed-app: EXTRAS = [app,milvus]
$(VENV)/.installed-shop: EXTRAS = [app,laptop]
$(VENV)/.installed-docs: EXTRAS = [docs]
$(VENV)/.installed-dev: EXTRAS = [dev]
$(VENV)/.installed $(VENV)/.installed-app $(VENV)/.installed-shop $(VENV)/.installed-docs $(VENV)/.installed-dev: settings.ini setup.py
	@{ test -x $(BIN)/pip && $(BIN)/python -c '$(CHECK)' 2>/dev/null; } || { $(PYTHON) -c '$(CHECK)' && $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing torch and the other requirements into $(VENV); this takes a few minutes the first time"
	$(PIP) install --quiet --no-compile -e ".$(EXTRAS)"
	$(BIN)/python -c "import fashionern.search.results, fashionern.training.run"  # compiles what the commands import
	@touch $(VENV)/.installed $@

demo: $(VENV)/.installed  ## install, draw garments, train FashionERN and show its results (10 to 18 minutes on two cores)
	$(BIN)/ern_demo

app: $(VENV)/.installed-app  ## open the search page with the demo's garments (after make demo; builds the index the first time)
	$(BIN)/ern_index build --images data/garments/images --model runs/demo --out indexes/demo --table data/garments/designs.json
	$(BIN)/ern_app --index indexes/demo --open

demo-shop: $(VENV)/.installed-shop  ## train on your own shop and open its search page: make demo-shop TABLE=products.csv IMAGES=photos.zip (more flags of ern_shop: ARGS="…")
	@test -n "$(TABLE)" -a -n "$(IMAGES)" || { echo "error: no table or no photos. Run make demo-shop TABLE=products.csv IMAGES=photos.zip (an archive or a folder)." >&2; exit 2; }
	$(BIN)/ern_shop --table "$(TABLE)" --images "$(IMAGES)" $(ARGS)

define NOTEBOOKS_AND_TESTS
OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --skip_file_re '^[_.]|^$(SLOW)'
OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile tests
endef

test: $(VENV)/.installed-dev  ## install the development extras and check export, lint, types, notebooks and tests, without the slow tutorials (pytest's summary comes last)
	$(BIN)/python tests/check_in_step.py
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(NOTEBOOKS_AND_TESTS)

coverage: export COVERAGE_FILE := $(CURDIR)/.coverage
coverage: export COVERAGE_SOURCE := $(CURDIR)/fashionern
coverage: $(VENV)/.installed-dev  ## measure which lines of the package are run by notebooks and tests; fails below 90 %
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run tests/run_notebooks.py --n_workers 2 --skip_file_re '^[_.]|^$(SLOW)'
	$(BIN)/coverage combine
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --cov --cov-append --cov-fail-under=90 --cov-report=term:skip-covered tests

test-all: test  ## make test, then the slow tutorials, which train many models (two to five minutes each)
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --file_re '^$(SLOW)'

test-lowest: VENV = .venv-lowest
test-lowest:  ## run notebooks and tests in a separate environment with the lowest versions that settings.ini allows (add PYTHON=python3.10 for the lowest Python)
	sed -nE 's/^[a-z_]*requirements = //p' settings.ini | tr ' ' '\n' | sed -nE 's/^([^=<>]+)>=([^,]+).*/\1==\2/p' > .lowest.txt
	PIP_CONSTRAINT=$(CURDIR)/.lowest.txt $(MAKE) $(VENV)/.installed-dev VENV=$(VENV)
	$(NOTEBOOKS_AND_TESTS)

# The wheel of a server that runs without containers. It asks for an old pymilvus, so it gets a folder of its own.
MILVUS = .milvus-server
$(MILVUS)/.installed-2.3.5: | $(VENV)/.installed-dev
	rm -rf $(MILVUS)
	$(PIP) install --quiet --no-deps --target $(MILVUS) milvus==2.3.5
	@touch $@

test-milvus: $(VENV)/.installed-dev $(MILVUS)/.installed-2.3.5  ## start a Milvus server on this machine and test the store with it, with kills and restarts (ten minutes; Linux and macOS)
	OMP_NUM_THREADS=1 $(BIN)/python tests/milvus_server.py $(BIN)/python -m pytest -q tests/search/test_stores.py -k server
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/search/test_milvus_server.py

lab: $(VENV)/.installed-dev  ## open the first tutorial in JupyterLab
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/nbs/tutorials/01_garments.ipynb

docs: $(VENV)/.installed-docs  ## build the documentation from README, guides and notebooks: _docs/index.html, readable without a server or network
	$(BIN)/python docs/build.py

clean:  ## remove the environments and build products; drawn data and runs are kept
	rm -rf $(VENV) .venv-lowest .milvus-server .lowest.txt build dist *.egg-info _docs _proc .coverage .coverage.* .mypy_cache .ruff_cache
