"""Batches of scenes, shared by the processes of `accelerate launch` and prepared by workers in parallel with the network.

Scenes are grouped into batches before the batches are distributed. The content of a batch, and so every digit of a
network's output for it, is therefore the same for any number of processes and workers.
"""

import atexit
import contextlib
import io
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from tqdm import tqdm

from ..errors import DataError
from ..hashing import digest
from ..scene import Scene
from ..workers import usable_processors

MAX_WORKERS = 8  # of one process; more would only wait for the network
T = TypeVar("T")


class Processes:
    """The processes of this run: one, or those that `accelerate launch` started. Only the main one prints and writes.

    They exchange Python objects over gloo, even if networks are on GPUs. A user's mistake, which is an error of the types
    `mistakes`, ends all processes with one message. `rank` is the number of this process, `count` how many there are.
    """

    def __init__(self, mistakes: tuple[type[Exception], ...]) -> None:
        self.mistakes: tuple[type[BaseException], ...] = (*mistakes, SystemExit)
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.is_main = self.rank == 0
        if self.count > 1:
            import torch  # slow to import

            torch.distributed.init_process_group("gloo")
            atexit.register(torch.distributed.destroy_process_group)  # its threads must not outlive the interpreter
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        if not self.is_main:
            sys.stdout = io.StringIO()

    def gather(self, do: Callable[[], T]) -> list[T]:
        """What `do` returns in each process, by rank, on the main one; an empty list on the others.

        A mistake in any process ends all of them: the main one raises it, the others end silently.

        Raises:
            DataError: another process was killed.
        """
        result, mistake = None, None
        try:
            with contextlib.nullcontext() if self.is_main else contextlib.redirect_stderr(io.StringIO()):
                result = do()  # argparse prints before it ends
        except self.mistakes as error:
            mistake = error
        found: list[Any] | None = [(result, mistake)]
        if self.count > 1:
            found = self._exchange("gather_object", (result, mistake), [None] * self.count if self.is_main else None)
        if mistake and not self.is_main:
            self._exchange("barrier")  # until the main process has reported it: once one ends, the launcher ends all
        for _, fault in found or ():
            if fault:
                raise fault
        return [each for each, _ in found or ()]

    def each(self, do: Callable[[], T]) -> T:
        """What `do` returns in this process; errors as in `gather`."""
        own: list[T] = []
        self.gather(lambda: own.append(do()))
        return own[0]

    def agree(self, scenes: Any, models: Any) -> None:
        """Raise DataError on the main process if the processes see different scenes, or have different `models` (JSON types)."""
        facts = {"maps": len(scenes), "names of maps": digest(scenes.names), "models": digest(models)}
        for rank, theirs in enumerate(self.gather(lambda: facts)):
            for key, value in facts.items():
                if theirs[key] != value:
                    message = f"process {rank} has {key} {theirs[key]}, process 0 has {value}"
                    raise DataError(f"{message}; all processes must see the same files")

    def broadcast(self, value: T) -> T:
        """The main process's value, in every process."""
        return value if self.count == 1 else self._exchange("broadcast_object_list", [value])[0]

    def _exchange(self, operation: str, *arguments: Any) -> Any:
        """One of torch.distributed's; returns the list that it fills."""
        import torch.distributed

        try:
            getattr(torch.distributed, operation)(*arguments)
        except RuntimeError as error:
            if not self.is_main:
                raise SystemExit(2) from error  # the main process has ended, and has reported why
            raise DataError("another process ended early; was it killed, or out of memory?") from error
        return arguments[-1] if arguments else None


def _read(numbers: Sequence[int], scenes: Any, read: Callable[[Scene], Any]) -> list[tuple[Scene, Any]]:
    return [(scene, read(scene)) for scene in map(scenes.scene, numbers)]


def shared(
    processes: Processes,
    scenes: Any,
    batch_size: int,
    *,
    read: Callable[[Scene], Any],
    work: Callable[[list[tuple[Scene, Any]]], Sequence[T]],
    title: str,
    done: Collection[int] = (),
    num_workers: int | None = None,
) -> Iterator[tuple[int, T]]:
    """Work on batches of scenes; the main process gets the number and the result of each, in order, the others nothing.

    Every process has to run through all of it.

    Args:
        scenes: with `names`, `len` and `scene(number)`.
        read: called with each scene, by workers; can be pickled.
        work: called once per batch with its list of (scene, what `read` returned); returns one result per scene.
        title: of the progress bar.
        done: numbers whose results are known, in the main process; a batch that also has others is worked on as a whole.
        num_workers: workers that read, per process; None: one for each free processor.
    """
    import torch
    from torch.utils.data import DataLoader

    from .dataset import close_dataloader, worker_settings

    torch.set_num_threads(1)  # the number of threads changes last digits, too
    batches = [list(range(start, min(start + batch_size, len(scenes)))) for start in range(0, len(scenes), batch_size)]
    batches = processes.broadcast([batch for batch in batches if any(number not in done for number in batch)])
    if num_workers is None:  # for the processors that the processes of this machine leave free
        num_workers = max(0, min(usable_processors() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1, MAX_WORKERS))
    settings = worker_settings(num_workers)
    if settings["num_workers"]:
        settings |= {"persistent_workers": True, "prefetch_factor": 2}
    own: Any = batches[processes.rank :: processes.count]
    loader: Any = DataLoader(own, None, collate_fn=partial(_read, scenes=scenes, read=read), **settings)
    ready = iter(loader)
    show: dict[str, Any] = {"unit": "map", "leave": False, "disable": not processes.is_main}
    progress = tqdm(desc=title, total=len(scenes), initial=len(done), **show)
    try:
        for start in range(0, len(batches), processes.count):
            in_work = batches[start : start + processes.count]
            results = processes.gather(lambda: next(map(work, ready), ()))  # () where no batch is left
            for numbers, found in zip(in_work, results, strict=False):  # other processes get no results
                for number, result in zip(numbers, found, strict=True):
                    if number not in done:
                        yield number, result
                        progress.update()
    finally:
        close_dataloader(loader)
        progress.close()
