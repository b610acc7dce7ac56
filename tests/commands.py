"""Commands called in this process, which spares the imports of a new one."""

import contextlib
import importlib
import io
import sys
from types import SimpleNamespace

import pytest

from denoising_diffusion_pytorch.cli import run
from tests.processes import ROOT


def script(name, *arguments, cwd=ROOT):
    """Run a command as a user does, `name` as `sample.py` or `scripts/evaluate.py`: `returncode`, `stdout`, `stderr`."""
    out, errors = io.StringIO(), io.StringIO()
    module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as end,
    ):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        patch.setenv("ACCELERATE_USE_CPU", "true")
        run(module.main)
    code = end.value.code
    if isinstance(code, str):  # a message in place of a number: printed, and status 1
        print(code, file=errors)
        code = 1
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=errors.getvalue())


def done(name, *arguments, cwd=ROOT):
    """What a command prints that does as it is asked."""
    result = script(name, *arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(name, *arguments, words=(), cwd=ROOT):
    """A user's mistake: exit code 2 and one line that holds `words`, no traceback."""
    result = script(name, *arguments, cwd=cwd)
    lines = [line for line in result.stderr.splitlines() if "error: " in line]
    assert result.returncode == 2 and len(lines) == 1 and "Traceback" not in result.stderr, result.stderr
    assert all(word in lines[0] for word in words), lines[0]
