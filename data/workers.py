"""Worker processes: how many there may be; they end only when their parent does."""

import multiprocessing
import os
import signal
import threading

LOOK_AGAIN = 2.0  # s between checks whether the parent is alive


def usable_processors() -> int:
    """Processors that this process may use, if the system reports them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker(*_: object) -> None:
    """Ignore Ctrl-C, the terminal's end and SIGTERM, which reach the whole process group, unless the parent sends SIGTERM or
    is gone.
    """
    for name in {"SIGINT", "SIGHUP"} & set(dir(signal)):  # Windows has no SIGHUP
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # on Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an ignored signal would not be waited for
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent, received = multiprocessing.parent_process(), None  # a fork server may stand between them
    while (received is None or received.si_pid != parent.pid) and parent.is_alive():
        received = signal.sigtimedwait({signal.SIGTERM}, LOOK_AGAIN)
    os._exit(0)
