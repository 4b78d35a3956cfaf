"""`inpaint demo`: damage real photographs, have the service restore them, show it in one picture.

In: nothing; the photographs come with scikit-image. Out: a PNG with a row `before | mask | after`
for each photograph, made through HTTP by a service that is started for it and stopped again.
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from inpaint.errors import InpaintError
from inpaint.settings import load

from .temporary import running

PANEL = (420, 300)  # width, height of each of the three pictures in a row, pixels
GAP = 8  # between them, pixels
DAMAGE = (255, 255, 255)  # what the hole looks like in `before`
WAIT_SECONDS = 60


def _writable(path: Path) -> Path:
    """Refuse, before the work, a path that no picture can be written to."""
    if path.suffix.lower() not in Image.registered_extensions():
        raise typer.BadParameter(f"{path} has no suffix of a picture, such as .png.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{path.parent} cannot be made: {error.strerror}.") from error
    return path


def demo(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Picture to write.", callback=_writable),
    ] = Path("demo.png"),
    *,
    model: Annotated[str | None, typer.Option(help="Model; by default the service's.")] = None,
) -> None:
    """Restore real photographs through HTTP and write `before | mask | after`."""
    settings = load({"model": model} if model else {})
    with (
        running(settings.model) as service,
        httpx.Client(base_url=service.url, timeout=2 * WAIT_SECONDS, trust_env=False) as client,
    ):
        rows = []
        for name, photograph, mask in damaged_photographs():
            before = Image.composite(Image.new("RGB", photograph.size, DAMAGE), photograph, mask)
            after = restore(client, before, mask)
            typer.echo(f"{name}: {photograph.width} x {photograph.height} px restored")
            rows.append((before, mask.convert("RGB"), after))
    sheet(rows).save(output)
    typer.echo(f"before | mask | after: {output.resolve()}")


def damaged_photographs() -> Iterator[tuple[str, Image.Image, Image.Image]]:
    """Give name, photograph (RGB) and mask (L, white = hole) of each example."""
    for name, draw in (
        ("astronaut", _scratches),
        ("coffee", _boxes),
        ("chelsea", _writing),
        ("rocket", _stains),
    ):
        pixels = getattr(data, name)()  # by name, because these functions have no types
        photograph = Image.fromarray(np.asarray(pixels))
        mask = Image.new("L", photograph.size)
        draw(ImageDraw.Draw(mask), *photograph.size)
        yield name, photograph, mask


def restore(client: httpx.Client, photograph: Image.Image, mask: Image.Image) -> Image.Image:
    """Send a photograph and its mask to `POST /inpaint` and return what comes back.

    Raises:
        InpaintError: with what the service says, if it gives no picture.
    """
    answer = client.post(
        "/inpaint",
        files={"image": ("photograph.png", _png(photograph)), "mask": ("mask.png", _png(mask))},
        headers={"Prefer": f"wait={WAIT_SECONDS}"},
    )
    if answer.status_code != httpx.codes.OK:
        raise InpaintError(f"POST /inpaint answered {answer.status_code}: {answer.text}")
    return Image.open(BytesIO(answer.content)).convert("RGB")


def sheet(rows: list[tuple[Image.Image, Image.Image, Image.Image]]) -> Image.Image:
    """Put rows of three pictures under each other, each scaled to fit its panel."""
    width, height = (side + GAP for side in PANEL)
    whole = Image.new("RGB", (3 * width + GAP, len(rows) * height + GAP), (32, 32, 32))
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            scale = min(PANEL[0] / picture.width, PANEL[1] / picture.height)
            size = round(picture.width * scale), round(picture.height * scale)
            left = GAP + column * width + (PANEL[0] - size[0]) // 2
            top = GAP + row * height + (PANEL[1] - size[1]) // 2
            whole.paste(picture.resize(size, Image.Resampling.LANCZOS), (left, top))
    return whole


def _png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _scratches(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    """Thin crooked lines from edge to edge, as on a print that was carried in a pocket."""
    random = np.random.default_rng(3)
    for _ in range(9):
        steps = np.linspace(0, 1, 9)
        across = random.uniform(0, width) + np.cumsum(random.normal(0, width / 30, steps.size))
        points = list(zip(across.tolist(), (steps * height).tolist(), strict=True))
        draw.line(points, fill=255, width=int(random.integers(2, 6)), joint="curve")


def _boxes(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    """A large box over the picture's subject and a small one in a corner."""
    draw.rectangle((0.52 * width, 0.30 * height, 0.66 * width, 0.52 * height), fill=255)
    draw.rectangle((0.08 * width, 0.10 * height, 0.18 * width, 0.22 * height), fill=255)


def _writing(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    """Words written across the picture."""
    draw.fontmode = "1"  # no soft edges: a mask is black or white
    font = ImageFont.load_default(size=height / 7)
    for line, text in enumerate(("Greetings", "from the", "seaside")):
        draw.text((0.1 * width, (0.12 + 0.27 * line) * height), text, fill=255, font=font)


def _stains(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    """Blots of many sizes."""
    random = np.random.default_rng(5)
    for _ in range(14):
        x, y = random.uniform(0, width), random.uniform(0, height)
        radius = random.uniform(0.01, 0.05) * width
        draw.ellipse((x - radius, y - 0.7 * radius, x + radius, y + 0.7 * radius), fill=255)
