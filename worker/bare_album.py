"""What `inpaint bench album` compares with: detector and generator alone, on the same windows.

    python -m worker.bare_album DETECTOR SCAN…

Each scan is decoded, its windows are read and loaded, and fills are laid, as in `inpaint worker`
and on the same engine; only the seconds in the networks, and those in which fills are refined,
count. Out: a line of JSON, `seconds_per_image`.
"""

import json
import sys
import time
from pathlib import Path

from inpaint.highres import batches
from inpaint.settings import Settings, load

from .forming import Pass
from .pipeline import Options, Restoration
from .zoo import Zoo


def main(detector: str, scans: list[Path]) -> None:
    """Print the line."""
    settings = load()
    zoo = Zoo.load(settings)
    spent = [_seconds(scan, zoo, settings, detector) for scan in scans]
    sys.stdout.write(json.dumps({"seconds_per_image": sum(spent) / len(spent)}) + "\n")


def _seconds(scan: Path, zoo: Zoo, settings: Settings, detector: str) -> float:
    options = Options(auto_mask=detector)  # type: ignore[arg-type]  # a word of the command line
    restoration = Restoration(zoo, settings.model, options, settings.limits)
    restoration.take(scan.read_bytes(), None)
    following: Pass | None = restoration.open()
    whole = 0.0
    while following is not None:
        model = zoo.everything[following.model]
        spent = 0.0
        for windows in batches(following.plan.windows):
            loaded = model.load(*following.plan.inputs(windows))
            began = time.perf_counter()
            fills = model.run(loaded)
            spent += time.perf_counter() - began
            for fill in fills:
                following.canvas.lay(fill)
        began = time.perf_counter()
        for _ in following.canvas.ending:
            pass
        spent += time.perf_counter() - began
        whole += spent
        following = restoration.close(following.canvas.pixels(), infer=spent, lay=0.0)
    return whole


if __name__ == "__main__":
    main(sys.argv[1], [Path(word) for word in sys.argv[2:]])
