#!/usr/bin/env bash
# Make .venv with everything the project needs. Nothing is done twice: a marker file records the requirements.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
"$PYTHON" - <<'CHECK'
import sys
if sys.version_info < (3, 10):
    sys.exit(f"error: Python 3.10 or newer is needed, this is {sys.version.split()[0]}; set PYTHON=/path/to/python3.11")
CHECK
wanted=$(cat requirements.txt requirements-dev.txt requirements-demo.txt | cksum)
if [ "$(cat .venv/.installed 2>/dev/null || true)" != "$wanted" ]; then
    echo "setting up .venv (PyTorch is a large download) ..."
    "$PYTHON" -m venv .venv
    # --no-compile saves a minute of one core: Python compiles what it imports when it does
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
        -r requirements.txt -r requirements-dev.txt
    echo "$wanted" > .venv/.installed
fi
