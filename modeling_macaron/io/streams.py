"""Read ahead, write behind, and show progress."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Queue
from threading import Event, Thread
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")
_END = object()


def read_ahead(items: Iterable[Item], ahead: int = 2) -> Iterator[Item]:
    """Yield items that a thread reads up to `ahead` in advance. A caller that stops does not wait for a slow source."""
    waiting: Queue[tuple[Item, BaseException | None]] = Queue(ahead)
    stopped = Event()

    def read() -> None:
        try:
            for item in items:
                waiting.put((item, None))
                if stopped.is_set():
                    return
            waiting.put((_END, None))
        except BaseException as error:  # noqa: BLE001  raised again in the caller
            waiting.put((_END, error))

    Thread(target=read, daemon=True).start()  # the interpreter joins an executor's threads when it exits
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
    """Yield a function that passes items to a writer thread, which may be `behind` items late.

    An error of the writer is raised by a later call or at the end of the block.
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


def progress_bar(what: str, total: int | None = None, *, verbose: bool = True) -> tqdm:
    """Make a progress bar, readable for one item and for millions; `what` names the items in the plural."""
    shape = f"{what}: {{n:,.0f}} [{{elapsed}}, {{rate_noinv_fmt}}]"
    if total:
        count = "{n:,.0f} of {total:,.0f}"
        shape = f"{what}: {{percentage:3.0f}}%|{{bar}}| {count} [{{elapsed}}<{{remaining}}, {{rate_noinv_fmt}}]"
    return tqdm(total=total or None, unit="", unit_scale=True, bar_format=shape, disable=not verbose)
