"""`inpaint bench ablations`: variants of one recipe, trained for the same CPU time, and scored.

In: a recipe, a TOML file with a table of overrides for each variant, photographs to train with, and
others to score with. Out: a table, and figures as JSON.

Compute is the CPU time of a variant's training steps, of all threads, as `training.loop` counts it:
a busy machine makes a run longer and no different in what it may spend. The seed is that of the
recipe, so that all variants see the same squares and holes, as far as they come. Each is a run in a
folder of its own, which goes on after a kill.

Scores are those of `training.evaluate` on composites that `inpaint.restore.restore` makes, with
holes that are drawn, by seed, photograph and band alone.
"""

import json
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any  # Any: values of TOML

import numpy as np
import torch
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from inpaint.errors import BadData, BadRecipe
from inpaint.highres import Filler
from inpaint.mask import Hole
from inpaint.patches import Refine
from inpaint.restore import restore
from models.filler import TorchFiller
from models.registry import create

from . import evaluate as protocol
from . import frechet, holes, loop, lpips, state
from .evaluate import BUCKETS, Pixels, Row, Scores
from .lpips import LPIPS, Trunk
from .options import Threads, make_folder, writing
from .recipe import Holes, Recipe, checked, load
from .scoring import MORE_IS_BETTER, cell
from .trainer import Sources

SHIPPED = Path(__file__).parent / "ablations.toml"
ALL = "all"  # the table of what every variant overrides
STAGE = "stage"  # the table of what is overridden in the recipe's first stage
ENDLESS = 1_000_000  # steps, which no variant reaches
BANDS = ("01-10", "20-30", "40-50")  # of `BUCKETS`
HOLES_SEED = 7
SHOWN = ("psnr", "lpips", "lpips_alex")
REFINEMENTS: tuple[Refine, ...] = ("none", "patches")
NARROWEST = 120  # characters of the table


@dataclass(frozen=True)
class Bench:
    """What every variant is trained and scored with."""

    data: tuple[Path, ...]
    features: Path  # folder of feature networks
    out: Path
    cpu_seconds: float
    photographs: Mapping[str, Pixels]  # that are scored, squares by name
    holes: Mapping[str, Sequence[Hole]]  # by band; each photograph's, in their order
    distances: Mapping[Trunk, LPIPS]


@dataclass(frozen=True)
class Result:
    """A variant, what it has taken, and what came of it."""

    steps: int
    images: int
    cpu_seconds: float
    parameters: int
    scores: Scores  # by refinement, band and name


def ablations(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    *,
    variants: Annotated[
        Path, typer.Option(help="TOML file with a table of overrides for each variant.")
    ] = SHIPPED,
    data: Annotated[
        list[Path], typer.Option(help="Photographs to train with, as of `inpaint train`.")
    ],
    kept_out: Annotated[Path, typer.Option(help="Folder of photographs to score with.")],
    features: Annotated[Path, typer.Option(help="Folder of feature networks.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs, one folder for each variant.")],
    only: Annotated[
        list[str] | None, typer.Option(help="Only this variant; repeatable.", metavar="NAME")
    ] = None,
    cpu_seconds: Annotated[float, typer.Option(min=1, help="CPU time of each variant.")] = 400,
    size: Annotated[int, typer.Option(min=64, help="Side of the squares scored, pixels.")] = 256,
    limit: Annotated[int, typer.Option(min=1, help="Photographs to score with.")] = 40,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write figures here.", dir_okay=False)
    ] = None,
    threads: Threads = None,
) -> None:
    """Train variants of a recipe at equal compute, and score them on photographs kept out."""
    if threads is not None:
        torch.set_num_threads(threads)
    recipes = read_variants(recipe, variants)
    if unknown := [name for name in only or [] if name not in recipes]:
        raise BadData(f"{variants} has no variant {unknown[0]}; it has {', '.join(recipes)}")
    photographs = protocol.read_photographs(kept_out, size, limit).squares
    bench = Bench(
        data=tuple(data),
        features=features,
        out=make_folder(out),
        cpu_seconds=cpu_seconds,
        photographs=photographs,
        holes=draw_holes(size, len(photographs)),
        distances={name: lpips.load(name, features) for name in lpips.FILES},
    )
    console = Console(highlight=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
    )
    results = {}
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        for name in only or recipes:
            results[name] = run(recipes[name], bench, bar)
            console.print(f"{name}: {results[name].steps} steps, {results[name].scores}")
    console.width = max(console.width, NARROWEST)
    for refine in REFINEMENTS:
        console.print(table(results, refine), soft_wrap=False)
    if json_file is not None:
        with writing(json_file):
            figures = {name: vars(result) for name, result in results.items()}
            json_file.write_text(json.dumps(figures, indent=1) + "\n")


def read_variants(recipe: Path, variants: Path) -> dict[str, Recipe]:
    """Return the recipe of each variant by name: the first stage of `recipe`, without an end.

    A variant's table overrides keys of the recipe, tables within it key by key; `stage` overrides
    those of the stage. What the table `all` overrides is overridden in every variant, first.

    Raises:
        BadRecipe: if a file cannot be read, or a variant is no recipe, by its name.
    """
    base = load(recipe).model_dump()
    base[STAGE] = base.pop("stages")[0] | {"steps": ENDLESS}
    try:
        tables = tomllib.loads(variants.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadRecipe(f"variants {variants}: {error}") from error
    common = tables.pop(ALL, {})
    if not tables or not all(isinstance(value, dict) for value in (common, *tables.values())):
        raise BadRecipe(f"variants {variants}: not a table for each variant, and nothing else")
    found = {}
    for name, table in tables.items():
        values = overridden(overridden(base, common), table | {"name": name})
        values["stages"] = [values.pop(STAGE)]
        found[name] = checked(values, Recipe, f"variant {name} of {variants}")
    return found


def overridden(values: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with those of `by` in their place; tables are overridden key by key."""
    changed = {
        key: overridden(values[key], value)
        if isinstance(value, dict) and isinstance(values.get(key), dict)
        else value
        for key, value in by.items()
    }
    return {**values, **changed}


def draw_holes(size: int, count: int) -> dict[str, list[Hole]]:
    """Return `count` holes (size,size) of strokes and boxes for each band; always the same."""
    found: dict[str, list[Hole]] = {}
    smallest = 0.01
    for band, largest in BUCKETS.items():
        if band in BANDS:
            rng = np.random.default_rng([HOLES_SEED, size, BANDS.index(band)])
            kinds = Holes(strokes=2, boxes=1, smallest=smallest, largest=largest)
            drawn: list[Hole] = []
            while len(drawn) < count:
                hole = holes.draw(kinds, size, rng)
                if protocol.bucket_of(float(hole.mean())) == band:
                    drawn.append(hole)
            found[band] = drawn
        smallest = largest
    return found


def run(recipe: Recipe, bench: Bench, bar: Progress) -> Result:
    """Train a variant, or go on with it, and score it if that was not done."""
    folder = bench.out / recipe.name
    spent = (state.load(folder, torch.device("cpu")) or {}).get("cpu", 0.0)
    began = time.process_time()
    task = bar.add_task(recipe.name, total=bench.cpu_seconds, completed=spent, unit="CPU s")
    loop.train(
        recipe,
        Sources(data=bench.data, features=bench.features / frechet.FILES[recipe.features.network]),
        folder,
        progress=lambda *_: bar.update(task, completed=spent + time.process_time() - began),
        cpu_seconds=bench.cpu_seconds,
    )
    saved = state.load(folder, torch.device("cpu"))
    assert saved is not None  # the end of a run is saved
    generator = create(recipe.architecture, recipe.generator)
    generator.load_state_dict(saved["averaged"] if recipe.average else saved["generator"])
    of = {"step": saved["step"], "photographs": list(bench.photographs)}
    kept = folder / "scores.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    if found.get("of") != of:
        bar.reset(task, total=len(bench.photographs), unit="photographs")
        filler = TorchFiller(generator.eval())
        found = {"of": of, "scores": score(filler, bench, lambda: bar.advance(task))}
        with writing(kept):
            kept.write_text(json.dumps(found, indent=1) + "\n")
    bar.remove_task(task)
    parameters = sum(value.numel() for value in generator.parameters())
    return Result(saved["step"], saved["images"], saved["cpu"], parameters, found["scores"])


def score(filler: Filler, bench: Bench, progress: Callable[[], None]) -> Scores:
    """Return mean scores by refinement, band and name; `progress` is called by photograph."""
    pairs = list(product(REFINEMENTS, bench.holes))
    rows: list[list[Row]] = [[] for _ in pairs]
    for number, photograph in enumerate(bench.photographs.values()):
        results = [
            restore(photograph, bench.holes[band][number], filler, refine=refine)
            for refine, band in pairs
        ]
        for row, one in zip(
            rows, protocol.compare(photograph, results, bench.distances), strict=True
        ):
            row.append(one)
        progress()
    scores: Scores = {refine: {} for refine in REFINEMENTS}
    for (refine, band), row in zip(pairs, rows, strict=True):
        scores[refine][band] = {name: float(np.mean([one[name] for one in row])) for name in SHOWN}
    return scores


def table(results: Mapping[str, Result], refine: str) -> Table:
    """Return what came of the variants with one refinement; bold is the best of a column."""
    shown = Table("variant", "steps", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    shown.title = f"refine {refine}; bands: share of the hole, %"
    columns = list(product(BANDS, SHOWN))
    for band, name in columns:
        heading = name.replace("_", "\n", 1)
        shown.add_column(f"{band}\n{heading}", justify="right", no_wrap=True)
    scores = {
        variant: [result.scores[refine][band][name] for band, name in columns]
        for variant, result in results.items()
    }
    best = [
        (max if name in MORE_IS_BETTER else min)(values)
        for (_, name), values in zip(columns, zip(*scores.values(), strict=True), strict=True)
    ]
    for variant, values in scores.items():
        cells = [cell(name, *pair) for (_, name), *pair in zip(columns, values, best, strict=True)]
        shown.add_row(variant, str(results[variant].steps), *cells)
    return shown
