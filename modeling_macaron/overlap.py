"""Read, compute and write at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Queue
from threading import Event, Thread
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def read_ahead(items: Iterable[Item], ahead: int = 2) -> Iterator[Item]:
    """Iterate in a thread, up to `ahead` items in advance; stopping early does not wait for the source."""
    waiting: Queue[tuple[Item, BaseException | None]] = Queue(ahead)
    stopped = Event()

    def read() -> None:
        try:
            for item in items:
                waiting.put((item, None))
                if stopped.is_set():
                    return
            waiting.put((_END, None))
        except BaseException as error:  # noqa: BLE001  raised again by the consumer
            waiting.put((_END, error))

    Thread(target=read, daemon=True).start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        while not waiting.empty():
            waiting.get_nowait()


@contextmanager
def write_behind(write: Callable[[Item], object], behind: int = 2) -> Iterator[Callable[[Item], None]]:
    """Write in a thread, up to `behind` items late; an error is raised by a later call or at the end of the block."""
    thread = ThreadPoolExecutor(1)
    waiting: deque[Future] = deque()

    def put(item: Item) -> None:
        waiting.append(thread.submit(write, item))
        while len(waiting) > behind:
            waiting.popleft().result()

    try:
        yield put
        while waiting:
            waiting.popleft().result()
    finally:
        thread.shutdown(cancel_futures=True)
