PYTHON ?= .venv/bin/python

.PHONY: checks lint test
checks: lint test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(dir $(PYTHON))lint-imports
	$(PYTHON) scripts/readme_results.py --check
	$(PYTHON) scripts/papers.py --check
	$(PYTHON) scripts/import_closure.py --check unimo.objectives.masked_language_modeling unimo.inference.model

test:
	$(PYTHON) -m pytest
