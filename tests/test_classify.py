"""The class head, exported and asked: drawn stripes of two kinds, told apart after a few steps."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from inpaint import cli
from inpaint.errors import BadCheckpoint, BadData
from training import classify, discriminators, state
from training.recipe import Recipe

SIZE = 32
RECIPE = {
    "name": "kinds",
    "architecture": "ccgan",
    "license": "CC0-1.0",
    "discriminator": {"kind": "shared-trunk", "channels": 4},
    "losses": {"classes": 1.0},
    "stages": [{"steps": 2, "size": SIZE, "batch": 2, "learning_rate": 1e-3}],
}

TINY = """
name = "kinds"
architecture = "ccgan"
license = "CC0-1.0"
save_every = 2
log_every = 2
generator = { width = 2 }
discriminator = { kind = "shared-trunk", channels = 2 }

[losses]
perceptual = 0.0
style = 0.0
objective = "cross-entropy"
classes = 1.0

[[stages]]
steps = 2
size = 64
batch = 4
learning_rate = 1e-3
"""


def square(kind, seed, size=SIZE):
    """Upright or level stripes, uint8 (size,size,3)."""
    rng = np.random.default_rng([kind, seed])
    wave = np.sin(np.arange(size) * rng.uniform(0.5, 0.9) + rng.uniform(0, 6))
    stripes = np.broadcast_to(wave if kind else wave[:, None], (size, size))
    noisy = 127 + 90 * stripes[..., None] + rng.normal(0, 10, (size, size, 3))
    return noisy.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def classifier():
    """A tiny one that really tells upright stripes from level ones."""
    torch.manual_seed(0)
    head = classify.Header(
        kind="shared-trunk",
        channels=4,
        size=SIZE,
        classes=("level", "upright"),
        training={"steps": 25},
        license="CC0-1.0",
    )
    network = discriminators.create("shared-trunk", channels=4, size=SIZE, classes=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for step in range(25):
        kinds = np.arange(8) % 2
        pixels = np.stack([square(kind, 100 * (step + 1) + n) for n, kind in enumerate(kinds)])
        judged = network(classify.to_image(pixels))
        loss = torch.nn.functional.cross_entropy(judged.classes, torch.from_numpy(kinds))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classify.Classifier(head, network)


@pytest.fixture
def file(classifier, tmp_path):
    path = tmp_path / "kinds.safetensors"
    classify.save_classifier(path, classifier)
    return path


@pytest.fixture
def photographs(tmp_path):
    """Twelve of each kind in a folder of its own, wider than high, one unreadable, two in none."""
    folder = tmp_path / "photographs"
    for kind, name in enumerate(("level", "upright")):
        (folder / name).mkdir(parents=True)
        for seed in range(12):
            wide = np.pad(square(kind, seed), ((0, 0), (6, 6), (0, 0)), mode="reflect")
            Image.fromarray(wide).save(folder / name / f"{seed}.png")
    (folder / "level" / "cut.png").write_bytes((folder / "level" / "0.png").read_bytes()[:99])
    for seed in (50, 51):
        Image.fromarray(square(1, seed)).save(folder / f"{seed}.png")
    return folder


def command(*words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return ended.value.code


def run(*words):
    return command("classify", *words)


def test_a_classifier_comes_back_as_it_was_saved(classifier, file):
    loaded = classify.load_classifier(file)
    assert loaded.header == classifier.header
    squares = [square(kind, seed) for kind in (0, 1) for seed in range(40)]
    expected = classifier.probabilities(squares)
    assert expected.shape == (80, 2)
    assert np.allclose(expected.sum(1), 1, atol=1e-6)
    assert np.array_equal(loaded.probabilities(squares), expected)
    assert (expected.argmax(1) == np.repeat([0, 1], 40)).mean() > 0.95
    assert loaded.probabilities([]).shape == (0, 2)


def test_the_file_says_what_it_is(file):
    with safe_open(file, framework="pt") as opened:
        strings = opened.metadata()
    assert strings["format"] == "inpaint-classifier/1"
    header = json.loads(strings["header"])
    assert header["classes"] == ["level", "upright"]
    assert (header["kind"], header["size"], header["channels"]) == ("shared-trunk", SIZE, 4)


def test_photographs_are_named_and_scored_against_their_folders(file, photographs, capsys):
    predictions = photographs.parent / "made" / "predictions.csv"
    words = ("--data", photographs, "--labels", "folders", "--csv", predictions)
    assert run(file, *words) == 0
    said = capsys.readouterr().out
    assert "skipped level/cut.png" in said
    rows = list(csv.DictReader(predictions.read_text().splitlines()))
    assert len(rows) == 26
    labelled = [row for row in rows if "/" in row["file"]]
    right = sum(row["class"] == row["file"].partition("/")[0] for row in labelled)
    assert f"accuracy {right / 24:.4f}: {right} of 24 photographs" in said
    assert right >= 23
    assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)


def test_predictions_can_be_given_as_labels(file, photographs, tmp_path, capsys):
    predictions = tmp_path / "predictions.csv"
    assert run(file, "--data", photographs, "--csv", predictions) == 0
    assert "accuracy" not in capsys.readouterr().out
    assert run(file, "--data", photographs, "--labels", predictions) == 0
    assert "accuracy 1.0000: 26 of 26 photographs" in capsys.readouterr().out


def test_labels_that_the_classifier_does_not_know_are_refused(file, photographs, capsys):
    (photographs / "level").rename(photographs / "slanted")
    assert run(file, "--data", photographs, "--labels", "folders") == 1
    said = capsys.readouterr().err
    assert "the class 'slanted' is none of level, upright" in said


def test_confusion_counts_what_was_taken_for_what():
    truth, predicted = np.array([0, 0, 1, -1, 2, 0]), np.array([0, 1, 1, 0, 0, 1])
    assert classify.confusion(truth, predicted, 3).tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 0]]


def changed(file, *, strings=None, header=None, tensors=None):
    """Write the file again with other metadata, header fields or tensors."""
    with safe_open(file, framework="pt") as opened:
        old = opened.metadata()
    kept = load_file(file)
    fields = {**json.loads(old["header"]), **(header or {})}
    save_file(
        tensors(kept) if tensors else kept,
        file,
        {**old, "header": json.dumps(fields)} | (strings or {}),
    )


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"strings": {"format": "inpaint-checkpoint/1"}}, "format is 'inpaint-checkpoint/1'"),
        ({"strings": {"header": "{"}}, "header field"),
        ({"header": {"classes": ["one"]}}, "header field classes"),
        ({"header": {"kind": "oracle"}}, "header field kind"),
        ({"header": {"wings": 2}}, "header field wings"),
        ({"header": {"size": 8}}, "shared-trunk cannot judge 8 px"),
        ({"header": {"kind": "whole", "size": 64}}, "only shared-trunk has them"),
        ({"header": {"classes": ["a", "b", "c"]}}, "size mismatch for classes.weight"),
        ({"tensors": lambda kept: {"real.weight": kept["real.weight"]}}, "Missing key(s)"),
        ({"tensors": lambda kept: {**kept, "wings": torch.ones(1)}}, "Unexpected key(s)"),
        (
            {"tensors": lambda kept: {**kept, "real.bias": torch.tensor([torch.nan])}},
            "not finite in: real.bias",
        ),
    ],
)
def test_a_file_that_is_no_sound_classifier_is_refused_by_name(file, change, refusal):
    changed(file, **change)
    with pytest.raises(BadCheckpoint) as refused:
        classify.load_classifier(file)
    assert refusal in refused.value.detail
    assert str(file) in refused.value.detail
    assert "\n" not in refused.value.detail


def test_a_truncated_file_a_pickle_and_no_file_are_refused(file, tmp_path):
    file.write_bytes(file.read_bytes()[:-20])
    torch.save({"classes": [1]}, tmp_path / "pickle.safetensors")
    for path in (file, tmp_path / "pickle.safetensors", tmp_path / "nothing.safetensors", tmp_path):
        with pytest.raises(BadCheckpoint, match="cannot be read as safetensors"):
            classify.load_classifier(path)


def test_the_classifier_of_a_run_is_its_discriminator(tmp_path):
    recipe = Recipe.model_validate(RECIPE)
    torch.manual_seed(1)
    network = discriminators.create("shared-trunk", channels=4, size=SIZE, classes=3)
    saved = {
        "recipe": recipe.model_dump_json(),
        "classes": ["a", "b", "c"],
        "discriminator": network.state_dict(),
        "step": 2,
        "images": 4,
    }
    state.save(tmp_path, saved)
    found = classify.of_run(state.load(tmp_path, torch.device("cpu")))
    assert found.header.classes == ("a", "b", "c")
    assert (found.header.size, found.header.training["steps"]) == (SIZE, 2)
    image = torch.rand(2, 3, SIZE, SIZE) * 2 - 1
    assert torch.equal(found.discriminator(image).classes, network(image).classes)


@pytest.mark.parametrize(
    ("losses", "refusal"),
    [({"classes": 0.0}, "has no class head"), ({"classes": 1.0, "part": "centre"}, "the centre")],
)
def test_a_run_without_a_class_head_for_whole_squares_is_refused(losses, refusal):
    recipe = Recipe.model_validate({**RECIPE, "losses": losses})
    with pytest.raises(BadData, match=refusal):
        classify.of_run({"recipe": recipe.model_dump_json()})


def test_a_place_that_cannot_be_written_to_is_refused(
    classifier, file, photographs, tmp_path, capsys
):
    (tmp_path / "taken").write_text("")
    with pytest.raises(BadData, match="cannot be written"):
        classify.save_classifier(tmp_path / "taken" / "a.safetensors", classifier)
    assert run(file, "--data", photographs, "--csv", tmp_path / "taken" / "a.csv") == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.slow
def test_a_class_head_is_trained_exported_and_asked_by_commands(photographs, tmp_path, capsys):
    recipe = tmp_path / "kinds.toml"
    recipe.write_text(TINY)
    labels = ("--data", photographs, "--labels", "folders")
    assert command("train", recipe, *labels, "--out", tmp_path / "run") == 0
    exported = tmp_path / "made" / "classes.safetensors"
    assert command("export", tmp_path / "run", tmp_path, "--classifier", exported) == 0
    assert "classes.safetensors: level, upright" in capsys.readouterr().out
    assert (tmp_path / "kinds.safetensors").exists()
    assert run(exported, *labels) == 0
    assert "of 24 photographs" in capsys.readouterr().out
    header = classify.load_classifier(exported).header
    assert (header.classes, header.size) == (("level", "upright"), 64)
    assert header.training["recipe"]["name"] == "kinds"
