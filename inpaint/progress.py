"""How far a command on many pictures has come: a bar with the time left, or plain lines.

All of it goes to stderr. A terminal gets the bar, and lines for what fails; anything else gets a
line for each picture.
"""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .errors import InpaintError
from .terminal import printable


class Tally:
    """Counts pictures that have ended. A context: the bar is there while it lasts."""

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True)
        self._total = total
        self._ended = 0
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            speed_estimate_period=300,  # seconds: pictures may take long
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave it as it stands."""
        self._bar.stop()

    def total(self, count: int) -> None:
        """Say how many there are, where that was not known from the start."""
        self._total = count
        self._bar.update(self._task, total=count)

    def ended(self, name: str, refusal: InpaintError | None = None) -> None:
        """Count a picture, and say why it failed if it did."""
        self._ended += 1
        self._bar.update(self._task, advance=1, description=printable(name))
        count = "" if self._console.is_terminal else f"{self._ended}/{self._total} "
        if refusal is not None:
            self.say(f"{count}{name}: {refusal.detail} ({refusal.code})")
        elif count:
            self.say(f"{count}{name}")

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
