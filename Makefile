# Every target builds .venv when it is missing or older than what it is built from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete

.PHONY: demo figures opening explorer gallery calibrate machines test test-full lint bench compat gpu docs clean venv
.DEFAULT_GOAL := test

$(STAMP): pyproject.toml constraints.txt
	@echo "normsmith: building $(VENV) from constraints.txt (a minute or two; only when it changes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[study]' --group dev --group docs
	@touch $@

venv: $(STAMP)

demo: $(STAMP)
	@echo "normsmith: studying the embedded digits (one to two minutes on two cores)"
	@$(BIN)/normsmith study --profile quick --report report.html

test: $(STAMP)
	@echo "normsmith: tests (shapes checked)"
	@$(BIN)/python -m pytest -q -n 2 -m "not compiles and not full"
	@echo "normsmith: tests that compile"
	@NORMSMITH_CHECK_SHAPES=0 $(BIN)/python -m pytest -q -n 2 -m "compiles and not full"

test-full: test
	@echo "normsmith: every combination, of which make test takes a part (minutes)"
	@$(BIN)/python -m pytest -q -n 2 -m "full and not compiles"
	@NORMSMITH_CHECK_SHAPES=0 $(BIN)/python -m pytest -q -n 2 -m "full and compiles"

lint: $(STAMP)
	@echo "normsmith: ruff, mypy, import contract"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

figures: $(STAMP)
	@echo "normsmith: the demo's questions asked anew; README's table and the verdicts of docs/claims.md (minutes)"
	@$(BIN)/python scripts/figures.py
	@$(BIN)/python scripts/explorer.py --write
	@$(BIN)/python scripts/gallery.py --write

opening: $(STAMP)
	@echo "normsmith: the example that README begins with, what it prints and its picture"
	@$(BIN)/python scripts/opening.py

explorer: $(STAMP)
	@echo "normsmith: the small runs of the explorer page, and docs/explorer.html (minutes)"
	@$(BIN)/python scripts/explorer.py

# Some tasks only, the others as they are kept: make gallery TASKS="wine diabetes"
gallery: $(STAMP)
	@echo "normsmith: every question in full, docs/gallery.html and the verdicts of docs/claims.md (hours; kept in .gallery)"
	@$(BIN)/python scripts/gallery.py $(TASKS)

corpus: $(STAMP)
	@echo "normsmith: normsmith check over the corpus of seeded faults (tens of minutes; docs/corpus.json and its table)"
	@$(BIN)/python scripts/corpus.py

machines: $(STAMP)
	@echo "normsmith: the demo by other backends and a narrower instruction set (tens of minutes; kept in .machines)"
	@$(BIN)/python scripts/machines.py

calibrate: $(STAMP)
	@echo "normsmith: arms compared with themselves, for docs/explanation/fairness.md (minutes; kept in .calibrate)"
	@$(BIN)/python scripts/calibrate.py

bench: $(STAMP)
	@echo "normsmith: benchmarks (minutes; results in benchmarks/results)"
	@$(BIN)/python -m benchmarks.run

# With another torch, or another Python: make compat TORCH=2.6.0 PYTHON=/usr/bin/python3.12
compat:
	@test -n "$(TORCH)" || { echo "normsmith: which torch? make compat TORCH=2.6.0 [PYTHON=python3.12] [PARTS=tests/layers]"; exit 2; }
	@$(PYTHON) scripts/compat.py $(TORCH) --python $(PYTHON) --parts $(PARTS)

# On a machine with a GPU: its own torch, Triton, pytest and numpy; no .venv, no network.
gpu:
	@PYTHONPATH=src:.:$(PYTHONPATH) $(PYTHON) -m benchmarks.gpu

docs: $(STAMP)
	@echo "normsmith: documentation, in docs/_build/html"
	@$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --builder html docs docs/_build/html

clean:
	@echo "normsmith: removing .venv, caches and built files"
	@rm -rf $(VENV) build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
