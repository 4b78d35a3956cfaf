"""Which windows of a picture a generator sees."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SizeRule:
    """Which window sizes a generator accepts, in pixels."""

    multiple: int = 1  # height and width are multiples of this
    minimum: int = 1  # and at least this
    fixed: int | None = None  # exactly this square, when the network has no choice
    trained: int = 256  # where it works best; windows aim at this
    hole_share: float = 1.0  # the hole fits in this central share of each side
    whole: bool = False  # wants the whole picture at once

    def accepts(self, height: int, width: int) -> bool:
        """Say whether a window of this size may be given to the generator."""
        if self.fixed is not None:
            return height == width == self.fixed
        return all(side >= self.minimum and side % self.multiple == 0 for side in (height, width))
