"""One stage of a pipeline in a thread of its own."""

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T], size: int) -> Generator[T, None, None]:
    """The items, in order, taken from their source by a thread that runs up to `size` of them ahead.

    What the source raises is raised here, after the items before it. When this generator ends or is closed, in whatever
    way, the source is closed (in its thread) and the thread has ended. The thread starts with the first item asked for.
    """
    stage = _Stage[T](size)
    thread = threading.Thread(target=stage.run, args=(items,), name="tinyhd", daemon=True)
    thread.start()
    try:
        yield from stage.taken()
    finally:
        stage.stop()
        thread.join()
    if stage.error is not None:
        raise stage.error


class _Stage(Generic[T]):
    def __init__(self, size: int) -> None:
        self._size = size
        self._ready: deque[T] = deque()
        self._changed = threading.Condition()
        self._stopped = self._done = False
        self.error: BaseException | None = None

    def run(self, items: Iterable[T]) -> None:
        """The thread."""
        iterator = iter(items)
        try:
            for item in iterator:
                if not self._give(item):
                    break
                del item  # not held while the source works on the next one
        except BaseException as error:
            self.error = error
        finally:
            self._close(iterator)
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def _give(self, item: T) -> bool:
        """Wait for room; False once the consumer has closed."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._ready) < self._size or self._stopped)
            self._ready.append(item)
            self._changed.notify_all()
            return not self._stopped

    def _close(self, iterator: Iterator[T]) -> None:
        close = getattr(iterator, "close", None)
        if close is not None:
            try:
                close()
            except BaseException as error:
                self.error = self.error or error

    def taken(self) -> Iterator[T]:
        """The items, as they come."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._done)
                if not self._ready:
                    return
                item = self._ready.popleft()
                self._changed.notify_all()
            yield item
            del item

    def stop(self) -> None:
        """The consumer has closed."""
        with self._changed:
            self._stopped = True
            self._ready.clear()
            self._changed.notify_all()
