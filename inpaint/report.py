"""How the pictures of a command have ended: one by one, in numbers, and as its exit status."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import typer

from . import disk
from .errors import InpaintError
from .journal import Journal
from .options import FAILED, INTERRUPTED, SOME_FAILED, Conduct
from .pairs import Pair, Pairs
from .progress import Tally
from .terminal import printable


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

    def write(
        self, data: bytes, facts: dict[str, Any], book: Journal | None, inputs: dict[str, Any]
    ) -> None:
        """Write its result, whole, with its line in the journal.

        Args:
            data: the result.
            facts: of the report.
            book: of the folder; None: the result is one file by name.
            inputs: what it was made of, of `inpaint.journal.of`.

        Raises:
            StorageUnavailable: if it cannot be written.
        """
        line = partial(book.add, self.pair, inputs, facts) if book else None
        disk.write(self.pair.output, data, before=line)
        self.done = {"output": str(self.pair.output), **facts}


def begin(pairs: Pairs, book: Journal | None, digest: str, *, resume: bool) -> list[Item]:
    """Return an item for each pair; to resume, those that an earlier run has done are kept.

    Args:
        pairs: all of the command.
        book: of the folder of their results.
        digest: of the options, of `inpaint.journal.digest`.
        resume: whether what is done is left out.
    """
    items = [Item(each) for each in pairs.all]
    if book is not None and resume:
        for item in items:
            if (facts := book.find(item.pair, digest)) is not None:
                item.done, item.kept = {"output": str(item.pair.output), **facts}, True
    return items


def note_end(tally: Tally, item: Item) -> None:
    """Count an item that has ended, and say what a person should know of it."""
    tally.ended(str(item.pair.image), item.refusal)
    if item.done.get("warning"):
        share = f"{100 * item.done['coverage']:.0f} %"
        tally.say(f"{item.pair.image}: {share} of it is taken for damage; look at it")


def counts(items: Sequence[Item]) -> dict[str, int]:
    """How many have ended in which way."""
    done = [item.done for item in items if item.done]
    failed = sum(item.refusal is not None for item in items)
    return {
        "succeeded": len(done),
        "without_damage": sum(facts.get("coverage") == 0 for facts in done),
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
    stopped: str | None = None,
    status: int = INTERRUPTED,
) -> None:
    """Say how it went in a line, write the report, and end the command with its status.

    Args:
        items: all of the command.
        about: facts of the report on the whole.
        verb: what was done to the pictures.
        how: the line's middle.
        conduct: says where the report goes.
        stopped: what a user is told where it was stopped; None: it was not.
        status: with which it ends then.
    """
    numbers = counts(items)
    parts = {
        "kept": "done by earlier runs",
        "without_damage": "without damage",
        "not_run": "not done",
    }
    line = f"{numbers['succeeded']} of {len(items)} pictures {verb} {how}; "
    line += f"{numbers['failed']} failed"
    line += "".join(f", {numbers[key]} {word}" for key, word in parts.items() if numbers[key])
    typer.echo(line)
    if stopped is not None:
        typer.echo(printable(stopped), err=True)
    if conduct.report is not None:
        facts = {**about, **numbers, "images": [item.report() for item in items]}
        disk.write(conduct.report, (json.dumps(facts, indent=2) + "\n").encode())
    if stopped is not None:
        raise typer.Exit(status)
    if numbers["failed"]:
        raise typer.Exit(SOME_FAILED if conduct.keep_going else FAILED)
