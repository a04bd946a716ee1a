# The only verbs, for people and for CI. Each makes .venv when it is missing and makes it anew when the pins change.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# Accessibility rules for the tests of the page, and the browser that it is tested in
AXE := node_modules/axe-core/axe.min.js
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: demo test test-gates test-slow test-browser screenshots check format bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)  ## toy world → ingest → pretrain → evaluate → embed → search → demo/demo.html
	$(BIN)/equiav demo

# One process per core with one thread each: many small tests, no fight over cores
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadgroup

# Two processes, a kill, torch.compile, a step of full size: they use all cores themselves
test-gates: $(READY)
	$(BIN)/python -m pytest -m gate

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# The page of `equiav serve` in a real browser; what is missing is installed, or this fails
test-browser: $(READY) $(AXE)
	command -v chromium || { $(AS_ROOT) apt-get update -qq && $(AS_ROOT) apt-get install -y -qq --no-install-recommends chromium; }
	OMP_NUM_THREADS=1 EQUIAV_BROWSER=required $(BIN)/python -m pytest -m browser

$(AXE):
	command -v npm || { $(AS_ROOT) apt-get update -qq && $(AS_ROOT) apt-get install -y -qq --no-install-recommends npm; }
	npm install --no-save --no-package-lock --no-audit --no-fund --ignore-scripts axe-core@4.14.1
	touch $@

screenshots: $(READY)  ## the pictures of the page in docs/images, of the demo's library in demo/
	$(BIN)/python tests/serve/browser/screenshots.py demo docs/images

check: $(READY)
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/pyright

format: $(READY)
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

bench: $(READY)
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv demo node_modules
