"""The semi-supervised comparison in small: that it compares what it says, not who wins."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from inpaint import cli
from training import labels_bench
from training.faces import CLASSES
from training.labels_bench import ARMS, Faces, Trial, recipe_of

FEW = 0.1
SEEN, TESTED = 240, 60  # faces: fewer, for time


@pytest.fixture(scope="module", autouse=True)
def fewer_faces():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(labels_bench, "SEEN", SEEN)
        patched.setattr(labels_bench, "TESTED", TESTED)
        yield


@pytest.fixture(scope="module")
def faces(tmp_path_factory, fewer_faces):
    return Faces.written(tmp_path_factory.mktemp("bench"))


def differences(one, two, before=""):
    """The dotted names of what differs between two dumped recipes."""
    found = set()
    for key in one:
        if isinstance(one[key], dict) and before + key != "generator":
            found |= differences(one[key], two[key], f"{before}{key}.")
        elif key == "stages":
            found |= differences(one[key][0], two[key][0], "stages.")
        elif one[key] != two[key]:
            found.add(before + key)
    return found


def test_faces_that_are_tested_are_never_seen(faces):
    written = {np.asarray(Image.open(path)).tobytes() for path in faces.folder.glob("*.png")}
    assert (len(written), len(faces.seen)) == (SEEN, SEEN)
    assert len(faces.tested) == len(faces.truth) == TESTED
    assert not written & {pixels.tobytes() for pixels in faces.tested}


def test_labels_are_few_of_every_class_and_others_for_other_seeds(faces):
    first, second = faces.labelled(FEW, 0), faces.labelled(FEW, 1)
    assert set(np.bincount(faces.seen[first], minlength=len(CLASSES))) == {4}
    assert np.array_equal(first, faces.labelled(FEW, 0))
    assert not np.array_equal(first, second)
    assert np.array_equal(faces.labelled(1, 0), np.arange(SEEN))


def test_arms_differ_in_their_losses_and_in_squares_without_labels_alone():
    recipes = {arm: recipe_of(Trial(arm, 3, FEW, None)) for arm in ARMS}
    semi = recipes["CC-GAN"].model_dump()
    game = {"losses.adversarial", "losses.hole", "labelled", "stages.batch"}
    expected = {ARMS[0]: game, "CC-GAN": set(), "CC-GAN^2": {"losses.both_fakes"}, ARMS[3]: game}
    for arm, recipe in recipes.items():
        assert differences(recipe.model_dump(), semi) == expected[arm]
    assert {recipe.labelled * recipe.stages[0].batch for recipe in recipes.values()} == {16}
    assert {recipe.steps for recipe in recipes.values()} == {recipes["CC-GAN"].steps}


def test_seed_and_steps_are_those_of_the_trial():
    recipe = recipe_of(Trial("CC-GAN", 3, FEW, 7))
    assert (recipe.seed, recipe.steps) == (4, 7)


@pytest.mark.slow
def test_a_head_that_sees_labels_learns_them(faces):
    """Scored on faces that it has seen, and few of them, so that a few steps are enough."""
    few = faces.labelled(FEW, 0)
    pixels = [np.asarray(Image.open(faces.folder / f"{number}.png")) for number in few]
    known = replace(faces, tested=pixels, truth=faces.seen[few])
    assert labels_bench.accuracy_of(Trial("labels alone", 0, FEW, 80), known) > 0.7


def test_seeds_are_compared_in_pairs(faces):
    found = {arm: [0.9, 0.8] for arm in ARMS} | {"CC-GAN": [0.94, 0.82]}
    alone, semi, _, full = labels_bench.summary(found, faces, FEW)
    assert (alone.labelled, alone.unlabelled) == (24, 0)
    assert (semi.labelled, semi.unlabelled) == (24, 216)
    assert (full.labelled, full.unlabelled) == (240, 0)
    assert semi.mean == pytest.approx(0.88)
    assert semi.gain == pytest.approx(0.03)
    assert semi.gain_deviation == pytest.approx(0.02 / 2**0.5)
    assert alone.deviation == pytest.approx(0.1 / 2**0.5)
    assert alone.gain == full.gain == 0


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_the_figures(tmp_path, capsys):
    path = tmp_path / "figures.json"
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "labels", "--seeds", "1", "--steps", "1", "--json", str(path)])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(arm in said for arm in ARMS)
    assert "10% labels, 1 seeds" in said
    figures = json.loads(path.read_text())
    assert (figures["share"], figures["tested"]) == (0.1, TESTED)
    assert [arm["arm"] for arm in figures["arms"]] == list(ARMS)
    for arm in figures["arms"]:
        assert arm["accuracies"] == [arm["mean"]]
        assert arm["mean"] * TESTED == pytest.approx(round(arm["mean"] * TESTED))
        assert arm["mean"] < 0.5  # nothing is learned in one step
