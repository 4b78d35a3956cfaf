"""How the pictures of a command have ended: one by one, in numbers, and as its exit status."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from . import disk
from .errors import InpaintError
from .options import FAILED, INTERRUPTED, SOME_FAILED, Conduct
from .pairs import Pair


@dataclass(eq=False)
class Item:
    """A picture of this run and how it has ended: done, refused, or not begun."""

    pair: Pair
    done: dict[str, Any] = field(default_factory=dict)  # facts, in the words of the report
    refusal: InpaintError | None = None
    kept: bool = False  # it was done by an earlier run

    def report(self) -> dict[str, Any]:
        """What is said of it in the report."""
        status = "failed" if self.refusal else "succeeded" if self.done else "not-run"
        found: dict[str, Any] = {"image": str(self.pair.image), "status": status}
        if isinstance(self.pair.mask, Path):
            found["mask"] = str(self.pair.mask)
        if self.refusal:
            found["problem"] = {"code": self.refusal.code, "detail": self.refusal.detail}
        return found | ({"kept": True} if self.kept else {}) | self.done


def counts(items: Sequence[Item]) -> dict[str, int]:
    """How many have ended in which way."""
    done = [item.done for item in items if item.done]
    failed = sum(item.refusal is not None for item in items)
    return {
        "succeeded": len(done),
        "unchanged": sum(bool(facts.get("unchanged")) for facts in done),
        "kept": sum(item.kept for item in items),
        "failed": failed,
        "not_run": len(items) - len(done) - failed,
    }


def finish(
    items: Sequence[Item],
    about: Mapping[str, Any],  # JSON
    verb: str,
    how: str,
    conduct: Conduct,
    *,
    interrupted: str | None = None,
) -> None:
    """Say how it went in a line, write the report, and end the command with its status.

    Args:
        items: all of the command.
        about: facts of the report on the whole.
        verb: what was done to the pictures.
        how: the line's middle.
        conduct: says where the report goes.
        interrupted: what a user who has interrupted it is told.
    """
    numbers = counts(items)
    parts = {"kept": "done by earlier runs", "unchanged": "without damage", "not_run": "not done"}
    line = f"{numbers['succeeded']} of {len(items)} pictures {verb} {how}; "
    line += f"{numbers['failed']} failed"
    line += "".join(f", {numbers[key]} {word}" for key, word in parts.items() if numbers[key])
    typer.echo(line)
    if conduct.report is not None:
        facts = {**about, **numbers, "images": [item.report() for item in items]}
        disk.write(conduct.report, (json.dumps(facts, indent=2) + "\n").encode())
    if interrupted is not None:
        typer.echo(interrupted, err=True)
        raise typer.Exit(INTERRUPTED)
    if numbers["failed"]:
        raise typer.Exit(SOME_FAILED if conduct.keep_going else FAILED)
