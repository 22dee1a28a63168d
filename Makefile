# Two commands matter: `make demo` and `make test`. Each sets up what it needs in .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-slow lint docs audit clean

demo: $(STAMP)
	$(BIN)/medcore demo

test: $(STAMP)-dev
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile

test-slow: $(STAMP)-dev
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy medcore results search

docs: $(STAMP)-dev
	$(BIN)/mkdocs build --strict --quiet

# asks PyPI for known weaknesses of the pinned versions
audit: $(STAMP)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[audit]"
	$(BIN)/pip-audit -r constraints.txt --no-deps --disable-pip --strict

clean:
	rm -rf .venv build site *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(STAMP)-dev: $(STAMP)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@
