#!/usr/bin/env bash
# The test suite, as the README gives it: sets up .venv, checks the style, runs pytest. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/python -m pytest "$@"
