# The only verbs, for people and for CI. Each makes .venv when it is missing and makes it anew when the pins change.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-gates test-slow check format bench clean

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
	rm -rf .venv demo
