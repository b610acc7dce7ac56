"""Stops a run when a terminal, a batch system or a launcher sends SIGTERM, SIGINT or SIGHUP, or when the launcher is gone;
and writes to terminals that may close before the run ends.
"""

import os
import signal
import time
from datetime import timedelta
from typing import Any, TextIO

import torch
from accelerate import Accelerator

TIMEOUT = timedelta(hours=2)  # of waiting for another process, which may be saving or scoring
ECHO = 5.0  # seconds after the first signal in which one of REPEATERS may repeat it
HANGUP = getattr(signal, "SIGHUP", None)  # of the terminal; Windows has none
REPEATERS = {"TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"}  # set by launchers that repeat signals


class StopRequest:
    """The first signal asks for a stop at the end of the step; the second one ends the process at once.

    A context manager: afterwards the signals are handled as before. torchrun and SLURM's job script pass a signal on to
    processes that may have received it already; that still counts as the first request. `accelerate launch` with one
    process passes nothing on: when the launcher has ended, for any reason, its run is asked to stop.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.requested, self._since = False, 0.0
        # on the CPU: the group is used after every step, and the GPU need not wait for this
        several = accelerator.num_processes > 1
        self._group: Any = torch.distributed.new_group(backend="gloo", timeout=TIMEOUT) if several else None
        self._echo = ECHO if REPEATERS & os.environ.keys() else 0.0
        self._launcher = os.getppid() if "ACCELERATE_MIXED_PRECISION" in os.environ else None  # set by the launcher

    def __enter__(self) -> "StopRequest":
        numbers = [signal.SIGTERM, signal.SIGINT]
        if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:  # ignored: after nohup
            numbers.append(HANGUP)
        self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)  # None: not set from Python

    def agreed(self) -> bool:
        """Whether any process was asked to stop; to be called by all of them."""
        self.requested |= self._launcher not in (None, os.getppid())
        if self._group is None:
            return self.requested
        flag = torch.tensor(int(self.requested))
        torch.distributed.all_reduce(flag, group=self._group)
        return bool(flag)

    def _handle(self, number: int, frame: object) -> None:
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
        elif number != HANGUP and time.monotonic() - self._since >= self._echo:  # shell and kernel both send a hangup
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


class Terminal:
    """stdout or stderr, whose reader may be gone: Ctrl-C also ends the `tee` of `2>&1 | tee log`, and a run must still save.
    After the first failure the stream is /dev/null.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
