"""Commands of scripts/, called in this process, which spares the imports of a new one."""

import contextlib
import importlib
import io
import sys
from types import SimpleNamespace

import pytest

from denoising_diffusion_pytorch.cli import run


def script(name, *arguments):
    """Run a command as a user does: `returncode`, `stdout` and `stderr`."""
    out, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as end,
    ):
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        run(importlib.import_module(f"scripts.{name.removesuffix('.py')}").main)
    code = end.value.code
    if isinstance(code, str):  # a message in place of a number: printed, and status 1
        print(code, file=errors)
        code = 1
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=errors.getvalue())
