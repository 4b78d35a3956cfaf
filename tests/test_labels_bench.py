"""The semi-supervised comparison in small: that it compares what it says, not who wins."""

import json
from dataclasses import replace

import numpy as np
import pytest

from inpaint import cli
from training import labels_bench
from training.labels_bench import ARMS, Digits, Trial, recipe_of

FEW = 0.1


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return Digits.written(tmp_path_factory.mktemp("bench"))


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


def test_digits_that_are_tested_are_never_seen(digits):
    assert len(digits.seen) + len(digits.tested) == len(digits.classes) == 1797
    assert not set(digits.seen) & set(digits.tested)
    written = {int(path.stem) for path in digits.folder.glob("*.png")}
    assert written == set(digits.seen)


def test_labels_are_few_of_every_class_and_others_for_other_seeds(digits):
    first, second = digits.labelled(FEW, 0), digits.labelled(FEW, 1)
    assert set(first) <= set(digits.seen)
    assert len(first) == len(second) == round(FEW * len(digits.seen) - 0.5)
    assert set(np.bincount(digits.classes[first])) <= {12, 13}
    assert np.array_equal(first, digits.labelled(FEW, 0))
    assert not np.array_equal(first, second)
    assert np.array_equal(digits.labelled(1, 0), digits.seen)


def test_squares_are_the_digits_enlarged():
    (square,) = labels_bench.squares([0])
    assert square.shape == (64, 64, 3)
    assert np.ptp(square, axis=2).max() == 0
    blocks = square[..., 0].reshape(8, 8, 8, 8).mean((1, 3)) * labels_bench.LEVELS / 255
    image = labels_bench.load_digits().images[0]
    assert np.corrcoef(blocks.ravel(), image.ravel())[0, 1] > 0.98


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
def test_a_head_that_sees_labels_learns_them(digits):
    """Scored on digits that it has seen, so that a few steps are enough."""
    known = replace(digits, tested=digits.labelled(0.02, 0))
    assert labels_bench.accuracy_of(Trial("labels alone", 0, 0.02, 60), known) > 0.7


def test_seeds_are_compared_in_pairs(digits):
    found = {arm: [0.9, 0.8] for arm in ARMS} | {"CC-GAN": [0.94, 0.82]}
    alone, semi, _, full = labels_bench.summary(found, digits, FEW)
    assert (alone.labelled, alone.unlabelled) == (125, 0)
    assert (semi.labelled, semi.unlabelled) == (125, 1132)
    assert (full.labelled, full.unlabelled) == (1257, 0)
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
    assert (figures["share"], figures["tested"]) == (0.1, 540)
    assert [arm["arm"] for arm in figures["arms"]] == list(ARMS)
    for arm in figures["arms"]:
        assert arm["accuracies"] == [arm["mean"]]
        assert arm["mean"] * 540 == pytest.approx(round(arm["mean"] * 540))
        assert arm["mean"] < 0.9  # nothing is learned in one step
