"""How many jobs a worker finishes per second while it is busy, over about the last half minute."""

import math
import time

SECONDS = 30.0  # of being busy, after which what was seen counts a third (1/e)


class Rate:
    """Counts jobs and busy time, both fading. Idle time neither counts nor fades anything."""

    def __init__(self) -> None:
        self._under_way = 0
        self._finished = 0.0
        self._busy = 0.0  # seconds
        self._until = time.monotonic()  # what is counted

    def began(self) -> None:
        """Count a job that begins."""
        self._pass()
        self._under_way += 1

    def ended(self, *, counts: bool) -> None:
        """Count a job that ends.

        Args:
            counts: whether it was finished rather than dropped.
        """
        self._pass()
        self._under_way -= 1
        self._finished += counts

    def per_second(self) -> float:
        """Jobs per second; 0.0 before the first one."""
        self._pass()
        return self._finished / self._busy if self._busy else 0.0

    def _pass(self) -> None:
        now = time.monotonic()
        passed, self._until = now - self._until, now
        if self._under_way:
            fade = math.exp(-passed / SECONDS)
            self._finished *= fade
            self._busy = self._busy * fade + passed
