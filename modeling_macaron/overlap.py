"""Let reading, computing and writing go on at the same time."""

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
    """Iterate in a thread, some items before they are wanted.

    Parameters
    ----------
    items : iterable
        Where the items come from; an error there is raised in its place among them.
    ahead : int
        Most items that wait.

    Yields
    ------
    object
        The items in their order. Whoever stops early need not wait for a slow source.
    """
    waiting: Queue[tuple[Item, BaseException | None]] = Queue(ahead)
    stopped = Event()

    def read() -> None:
        try:
            for item in items:
                waiting.put((item, None))
                if stopped.is_set():
                    return
            waiting.put((_END, None))
        except BaseException as error:  # noqa: BLE001  raised again where the item is wanted
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
    """Write in a thread while the caller goes on.

    Parameters
    ----------
    write : callable
        Called with one item after another. An error there is raised by a later call or at the end of the block.
    behind : int
        Most items that wait.

    Yields
    ------
    callable
        Takes an item and returns at once, unless too many wait.
    """
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
