#!/bin/sh
# One command from a bare checkout to passed tests: installs into .venv, then style, types and tests.
# What the machine lacks (ray, mlflow, a PostgreSQL server) is skipped and named, unless AUTOPRUNE_TEST_REQUIRE lists it.
set -eu
cd "$(dirname "$0")/.."
EXTRAS=all,dev
. .ci/venv.sh
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
exec "$VENV/bin/python" -m pytest -rs -m "not full" "$@"
