# Needs Python 3.11 or newer and make. PYTHON names another Python, ARGS goes on to the command.
.POSIX:
.PHONY: run test lint bench lock
ARGS =

run:
	@PYTHON="$(PYTHON)" sh scripts/venv
	@exec .venv/bin/python manage.py up $(ARGS)

test:
	@PYTHON="$(PYTHON)" sh scripts/venv dev
	@sh scripts/chromium
	@exec .venv/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

lint:
	@PYTHON="$(PYTHON)" sh scripts/venv dev
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	@sh scripts/with-scratch-data .venv/bin/python -m mypy
	@sh scripts/with-scratch-data .venv/bin/python manage.py makemigrations --check --dry-run
	.venv/bin/python -m pytest -q tests/roof/test_import_arrows.py

bench:
	@PYTHON="$(PYTHON)" sh scripts/venv dev
	@exec .venv/bin/python -m bench $(ARGS)

lock:
	@PYTHON="$(PYTHON)" sh scripts/venv dev
	@sh scripts/lock
