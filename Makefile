# Everything a fresh machine needs: `make demo` runs the main job on shipped examples, `make test` the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cksum < pyproject.toml | cut -d' ' -f1)

.PHONY: demo test lint slow bench clean

demo: $(STAMP)
	-$(BIN)/gradlint check fixtures/lstm_sentiment/bad.py fixtures/resnet152_no_skip/bad.py

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

bench: $(STAMP)
	$(BIN)/python benchmarks/check.py
	$(BIN)/python benchmarks/source_speed.py

clean:
	rm -rf $(VENV) build dist *.egg-info

# One install of torch at a time, before the rest, so that no range can pull another build.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[torch-pinned,dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@
