"""Recipes: strict names, strict values, and the schedule."""

from pathlib import Path

import pytest

import training
from inpaint.errors import BadRecipe
from models.registry import create
from training import recipe
from training.detection import is_detector

SHIPPED = sorted((Path(training.__file__).parent / "recipes").glob("*.toml"))
RECIPES = [path for path in SHIPPED if not is_detector(path)]
SIBLINGS = {"aotgan-small": "aotgan-512"}
SMALL = """
name = "tiny"
architecture = "aotgan-compact"
license = "CC0-1.0"
warmup = 4

[[stages]]
steps = 10
size = 32
batch = 2
learning_rate = 1e-3
adversarial = false

[[stages]]
steps = 20
size = 64
batch = 1
learning_rate = 1e-3
final_rate = 1e-4
"""


@pytest.fixture
def write(tmp_path):
    def to_file(text):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return path

    return to_file


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_named_after_its_file_and_builds_its_generator(path):
    parsed = recipe.load(path)
    assert parsed.name == path.stem
    assert sum(p.numel() for p in create(parsed.architecture, parsed.generator).parameters()) > 0


def test_what_is_not_written_has_its_default(write):
    parsed = recipe.load(write(SMALL))
    assert parsed.steps == 30
    assert parsed.losses.mode == "paper"
    assert parsed.holes.files == 0


def test_an_unknown_key_is_refused_by_name(write):
    with pytest.raises(BadRecipe, match=r"recipe .*recipe.toml: learning_rte: .*not permitted"):
        recipe.load(write("learning_rte = 1\n" + SMALL))


def test_an_unknown_key_of_a_part_is_refused_by_name(write):
    with pytest.raises(BadRecipe, match="losses.perceptul: "):
        recipe.load(write(SMALL + "[losses]\nperceptul = 0.1\n"))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("[losses]\nhole = inf\n", "losses.hole: .*finite"),
        ("[discriminator]\nlearning_rate = nan\n", "discriminator.learning_rate"),
        ("[holes]\nlargest = 'half'\n", "holes.largest"),
        ("[holes]\nlargest = 1.5\n", "holes.largest"),
        ("[holes]\nsmallest = 0.7\n", "holes.smallest is larger than holes.largest"),
        ("[losses]\nmode = 'papr'\n", "losses.mode"),
        ("[losses]\nobjective = 'hinge'\n", "losses.objective"),
        ("[crops]\ngray = 0.6\nsepia = 0.5\n", "crops.gray and crops.sepia are more than all"),
        ("[losses]\nblur_kernel = 70\n", "losses.blur_kernel is 70; it must be odd"),
        ("[features]\nstyle_taps = []\n", "features.style_taps"),
        ("[discriminator]\nkind = 'patch'\n", "discriminator.kind"),
        ("[discriminator]\nkind = 'context-conditioned'\n", "losses.part must be 'centre'"),
        ("losses = { hole = -1 }\n", "stages.1.losses.hole"),
        ("losses = { classes = 1, hule = 1 }\n", "stages.losses cannot change classes, hule"),
        ("[discriminator]\nchannels = 2.5\n", "discriminator.channels"),
        ("[[stages]]\nsteps = 0\nsize = 64\nbatch = 1\nlearning_rate = 1e-3\n", "stages.2.steps"),
    ],
)
def test_a_wrong_value_is_refused_by_name(wrong, named, write):
    with pytest.raises(BadRecipe, match=named):
        recipe.load(write(SMALL + wrong))


@pytest.mark.parametrize(
    ("key", "named"),
    [("betas = [0.5, 1.0]", "betas.1"), ("average = 1.0", "average"), ("labelled = 2", "labelled")]
    + [("log_every = 30", "save_every is not a multiple of log_every")],
)
def test_a_wrong_value_of_the_whole_is_refused_by_name(key, named, write):
    with pytest.raises(BadRecipe, match=named):
        recipe.load(write(f"{key}\n{SMALL}"))


def test_every_fault_is_named_at_once(write):
    with pytest.raises(BadRecipe, match=r"crops.flop.*losses.hole"):
        recipe.load(write(SMALL + "[crops]\nflop = 1\n[losses]\nhole = -1\n"))


def test_a_recipe_without_stages_is_refused(write):
    with pytest.raises(BadRecipe, match="stages"):
        recipe.load(write(SMALL.split("[[stages]]")[0]))


def test_a_file_that_is_not_toml_is_refused(write):
    with pytest.raises(BadRecipe, match=r"recipe .*recipe.toml"):
        recipe.load(write("name = "))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BadRecipe, match="nowhere.toml"):
        recipe.load(tmp_path / "nowhere.toml")


def test_stages_follow_one_another(write):
    parsed = recipe.load(write(SMALL))
    assert parsed.stage_at(9) == (parsed.stages[0], 0.9)
    assert parsed.stage_at(10) == (parsed.stages[1], 0.0)
    assert parsed.stage_at(25) == (parsed.stages[1], 0.75)
    with pytest.raises(ValueError, match="behind the last stage"):
        parsed.stage_at(30)


def test_a_stage_may_weigh_losses_otherwise(write):
    parsed = recipe.load(write(SMALL + "losses = { hole = 1, perceptual = 0 }\n"))
    first, second = (parsed.losses_of(stage) for stage in parsed.stages)
    assert first == parsed.losses
    assert second == first.model_copy(update={"hole": 1.0, "perceptual": 0.0})


def test_the_learning_rate_warms_up_and_ends_on_a_straight_line(write):
    parsed = recipe.load(write(SMALL))
    rates = [parsed.rate_at(step) for step in (0, 1, 3, 9, 10, 20)]
    assert rates == pytest.approx([2.5e-4, 5e-4, 1e-3, 1e-3, 1e-3, 5.5e-4])


def test_a_recipe_cannot_be_changed(write):
    parsed = recipe.load(write(SMALL))
    with pytest.raises(ValueError, match="frozen"):
        parsed.seed = 2


def keys(part):
    for name, field in part.model_fields.items():
        inner = field.annotation
        if name == "stages":
            inner = recipe.Stage
        if isinstance(inner, type) and issubclass(inner, recipe.Part):
            yield from (f"{name}.{key}" for key in keys(inner))
        else:
            yield name


def test_every_key_of_a_recipe_is_documented():
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    assert [key for key in keys(recipe.Recipe) if f"`{key}`" not in text] == []


# What a small sibling may change, by the words of its comment; the rest goes without saying.
SAID = {
    "fewer channels": {"generator.width", "generator.channels", "generator.bottleneck_channels"}
    | {"discriminator.channels"},
    "averaged": {"average"},
    "squares of 128 px": {"trained", "crops.smallest", "losses.blur_kernel", "losses.blur_sigma"},
    "drawn holes": {"holes.strokes", "holes.boxes", "holes.files"},
    "SqueezeNet": {"features.network", "features.perceptual_taps", "features.style_taps"},
    "scaled": {"features.scale"},
    "style weighs less": {"losses.style"},
    "clipped": {"clip"},
    "warms up": {"warmup"},
    "less than 20 minutes": {"stages", "save_every", "log_every", "sample_every"},
    "-small.toml": {"name", "license", "license_note", "data"},
}


def values(part, prefix=""):
    """Every value of a recipe by its dotted key."""
    for name, value in part.items():
        if isinstance(value, dict):
            yield from values(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if path.stem.endswith("-small")], ids=lambda path: path.stem
)
def test_a_small_recipe_differs_from_its_sibling_in_what_its_comment_says(path):
    sibling = path.with_stem(SIBLINGS.get(path.stem, path.stem.removesuffix("-small")))
    small, full = (dict(values(recipe.load(p).model_dump())) for p in (path, sibling))
    changed = {key for key in small.keys() | full.keys() if small.get(key) != full.get(key)}
    comment = path.read_text().split("\n\n")[0].replace("\n# ", " ")
    assert sibling.stem in comment
    said = set().union(*(keys for words, keys in SAID.items() if words in comment))
    assert changed <= said
    stage = small["stages"][-1]
    assert stage["final_rate"] < stage["learning_rate"]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ('license = "CC0-1.0"', 'license = ""'),
        ("warmup = 4", "warmup = 4\nseed = -1"),
        ("warmup = 4", "warmup = 4\nseed = 9223372036854775808"),
        ("warmup = 4", "warmup = 4\ntrained = 0"),
        ("size = 32", "size = 100_000"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(line, wrong, write):
    assert line in SMALL
    with pytest.raises(BadRecipe, match=wrong.split("\n")[-1].split(" ")[0]):
        recipe.load(write(SMALL.replace(line, wrong)))
