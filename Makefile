.PHONY: check format lint types test slow

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
