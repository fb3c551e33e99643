"""Reading ahead and writing behind: order, errors and limits."""

import threading
import time

import pytest

from modeling_macaron.io.streams import read_ahead, write_behind


def test_items_keep_their_order():
    assert list(read_ahead(range(100))) == list(range(100))
    assert list(read_ahead([])) == []
    assert list(read_ahead([None, 0, ""])) == [None, 0, ""]


def test_reading_continues_while_the_caller_computes():
    second_was_read = threading.Event()

    def source():
        yield 1
        second_was_read.set()
        yield 2

    items = read_ahead(source())
    assert next(items) == 1
    assert second_was_read.wait(30), "the caller has not asked for the second"
    assert list(items) == [2]


def test_source_errors_are_raised_in_order():
    def source():
        yield 1
        yield 2
        raise ValueError("broken here")

    items = read_ahead(source())
    assert (next(items), next(items)) == (1, 2)
    with pytest.raises(ValueError, match="broken here"):
        next(items)


def test_stopping_early_does_not_wait_for_a_slow_source():
    going_on, closed = threading.Event(), threading.Event()

    def source():
        try:
            yield 0
            going_on.wait(30)
            yield from range(1000)
        finally:
            closed.set()

    items = read_ahead(source())
    assert next(items) == 0
    started = time.monotonic()
    items.close()
    assert time.monotonic() - started < 5
    going_on.set()
    assert closed.wait(5), "the thread ends"


def test_everything_is_written_in_order():
    written = []
    with write_behind(written.append) as put:
        for item in range(100):
            put(item)
    assert written == list(range(100))


def test_writing_continues_while_the_caller_computes():
    may_write, written, handed_in = threading.Event(), [], []

    def write(item):
        assert may_write.wait(30)
        written.append(item)

    with write_behind(write, behind=2) as put:
        for item in range(2):
            put(item)  # returns although nothing can be written yet
        assert written == []
        thread = threading.Thread(target=lambda: handed_in.append(put(2)))
        thread.start()
        thread.join(0.2)
        assert handed_in == [], "the third waits until the first is written"
        may_write.set()
        thread.join(30)
        assert handed_in == [None]
    assert written == [0, 1, 2]


@pytest.mark.parametrize("at", [0, 5, 9])
def test_error_of_the_writer_is_raised(at):
    written = []

    def write(item):
        if item == at:
            raise OSError("disk full")
        written.append(item)

    with pytest.raises(OSError, match="disk full"), write_behind(write) as put:
        for item in range(10):
            put(item)
    assert written[:at] == list(range(at))


def test_error_of_the_caller_is_raised():
    with pytest.raises(ValueError, match="mine"), write_behind(lambda item: time.sleep(0.01)) as put:
        put(1)
        raise ValueError("mine")
