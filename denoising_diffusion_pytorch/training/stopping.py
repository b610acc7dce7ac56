"""Requests to stop: SIGTERM and SIGINT, as a terminal, a batch system or a launcher sends them."""

import os
import signal
import time
from typing import Any

import torch
from accelerate import Accelerator

ECHO = 5.0  # seconds during which torchrun may repeat a signal that its processes have already received


class StopRequest:
    """The first signal asks for a stop at the end of the step; the second one ends the process at once.

    Under torchrun the launcher repeats a terminal's Ctrl-C to every process, which is still the first request.

    Args:
        accelerator: whose processes stop after the same step.

    Attributes:
        requested: whether a signal came to this process.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.requested = False
        # on the CPU, because it is used after every step: no GPU must wait for it
        self._group: Any = torch.distributed.new_group(backend="gloo") if accelerator.num_processes > 1 else None
        self._since = 0.0
        self._echo = ECHO if "TORCHELASTIC_RUN_ID" in os.environ else 0.0

    def install(self) -> None:
        """Handle both signals from now on."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def agreed(self) -> bool:
        """Whether a signal came to any process; to be called by all of them."""
        if self._group is None:
            return self.requested
        flag = torch.tensor(int(self.requested))
        torch.distributed.all_reduce(flag, group=self._group)
        return bool(flag)

    def _handle(self, number: int, frame: object) -> None:
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
        elif time.monotonic() - self._since >= self._echo:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
