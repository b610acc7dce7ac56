"""Requests to stop: SIGTERM and SIGINT, as a terminal, a batch system or a launcher sends them."""

import os
import signal
import time

ECHO = 5.0  # seconds in which torchrun passes on a signal that its processes have got already


class StopRequest:
    """The first signal asks for a stop at the end of the step; the second one ends the process at once.

    Under torchrun the launcher repeats a terminal's Ctrl-C to every process, which is still the first request.

    Attributes:
        requested: whether a signal came.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0
        self._echo = ECHO if "TORCHELASTIC_RUN_ID" in os.environ else 0.0

    def install(self) -> None:
        """Handle both signals from now on."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
        elif time.monotonic() - self._since >= self._echo:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
