"""What waits for the codec threads: a small picture never waits behind large ones alone.

One thread takes no calls for large pictures, which may last seconds; the others take calls in their
order, whatever their size.
"""

import threading
from collections import deque
from collections.abc import Callable

Call = Callable[[], None]


class Calls:
    """Calls in two lines. Methods are for any thread."""

    def __init__(self) -> None:
        """Begin with none."""
        self._changed = threading.Condition()
        self._small: deque[tuple[int, Call]] = deque()  # with their number
        self._large: deque[tuple[int, Call]] = deque()
        self._count = 0
        self._closed = False

    def put(self, call: Call, *, large: bool = False) -> None:
        """Let a call wait; `large`: it works on a large picture as a whole."""
        with self._changed:
            self._count += 1
            if large:
                self._large.append((self._count, call))
                self._changed.notify_all()  # not every thread may take it
            else:
                self._small.append((self._count, call))
                self._changed.notify()

    def get(self, *, large: bool) -> Call | None:
        """Wait for the call that came first, without `large` among the small ones; None: closed."""
        with self._changed:
            while not self._closed:
                lines = [line for line in (self._small, self._large if large else None) if line]
                if lines:
                    return min(lines, key=lambda line: line[0][0]).popleft()[1]
                self._changed.wait()
        return None

    def close(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
