"""What waits for the codec threads: a small picture never waits behind large ones alone.

One thread takes no calls for large pictures, which may last seconds. Calls of interactive tasks go
first, but every fourth is the one that has waited longest.
"""

import threading
from collections import deque
from collections.abc import Callable

Call = Callable[[], None]

TURNS = 4  # of so many calls one is the oldest


class Calls:
    """Calls in three lines. Methods are for any thread."""

    def __init__(self) -> None:
        """Begin with none."""
        self._changed = threading.Condition()
        self._urgent: deque[tuple[int, Call]] = deque()  # with their number
        self._small: deque[tuple[int, Call]] = deque()
        self._large: deque[tuple[int, Call]] = deque()
        self._count = self._given = 0
        self._closed = False

    def put(self, call: Call, *, urgent: bool = False, large: bool = False) -> None:
        """Let a call wait; `large`: it works on a large picture as a whole, urgent or not."""
        with self._changed:
            self._count += 1
            if large:
                self._large.append((self._count, call))
                self._changed.notify_all()  # not every thread may take it
            else:
                (self._urgent if urgent else self._small).append((self._count, call))
                self._changed.notify()

    def get(self, *, large: bool) -> Call | None:
        """Wait for the call whose turn it is, without `large` a small one; None: closed."""
        with self._changed:
            while not self._closed:
                lines = [self._urgent, self._small, self._large][: 3 if large else 2]
                if waiting := [line for line in lines if line]:
                    self._given += 1
                    oldest = min(waiting, key=lambda line: line[0][0])
                    return (self._given % TURNS and self._urgent or oldest).popleft()[1]
                self._changed.wait()
        return None

    def close(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
