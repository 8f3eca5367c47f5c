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
	$(PYTHON) scripts/import_closure.py --check

test:
	$(PYTHON) -m pytest
