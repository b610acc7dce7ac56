#!/usr/bin/env bash
# The test suite, as in the README: sets up .venv, checks style and types, runs pytest. Arguments go to pytest:
# `-m ""` also runs what takes about a minute per test, such as training on two nodes.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet .
.venv/bin/mypy &
.venv/bin/python -m pytest -n auto --dist loadfile -m "not slow" "$@"
wait $!
if command -v nvidia-smi >/dev/null; then
    TEST_ON_GPU=1 .venv/bin/python -m pytest tests/test_gpu.py
fi
