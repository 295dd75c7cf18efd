.PHONY: check format lint types test slow audit

check: format lint types test

format:
	ruff format --check .

lint:
	ruff check .

types:
	mypy

test:
	pytest -n 3 --dist loadfile

slow:
	pytest -m slow

# Known weaknesses of the pinned packages; it asks the advisory database of PyPI.
audit:
	pip-audit --no-deps --disable-pip -r constraints.txt
