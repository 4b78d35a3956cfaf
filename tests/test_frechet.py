"""The Fréchet distance against closed forms; features pooled by real trunks."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from inpaint.errors import BadData
from training import features, frechet


def statistics(values):
    found = frechet.Statistics()
    found.add(torch.from_numpy(np.asarray(values)))
    return found


def gaussian(mean, deviations):
    """Four or more samples whose mean and diagonal covariance are exactly these."""
    count = 2 * len(mean)
    corners = np.zeros((count, len(mean)))
    for place, deviation in enumerate(deviations):
        corners[2 * place : 2 * place + 2, place] = np.array([1, -1]) * deviation
    return corners * np.sqrt((count - 1) / 2) + mean


@pytest.fixture
def folder(tmp_path):
    """Trunks with drawn weights under the names that are looked for."""
    torch.manual_seed(0)
    for network, file in frechet.FILES.items():
        if network.startswith("vgg"):
            continue  # 60 MB each
        trunk = features.FeatureNetwork(network, list(features.TAPS[network]))
        save_file(trunk.state_dict(), tmp_path / file)
    return tmp_path


def test_diagonal_gaussians_have_the_distance_of_the_closed_form():
    means = np.array([[0.0, 1.0, -2.0], [0.5, 1.0, 3.0]])
    deviations = np.array([[1.0, 0.5, 2.0], [3.0, 0.5, 0.1]])
    a, b = (statistics(gaussian(m, d)) for m, d in zip(means, deviations, strict=True))
    assert np.allclose(a.covariance(), np.diag(deviations[0] ** 2))
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    assert frechet.distance(a, b) == pytest.approx(expected)


def test_covariances_that_do_not_commute_have_the_distance_of_the_closed_form():
    """In two dimensions trace sqrt(M) = sqrt(trace M + 2 sqrt(det M)), with M = A B."""
    rng = np.random.default_rng(1)
    samples = [rng.normal(size=(50, 2)) @ rng.normal(size=(2, 2)) for _ in range(2)]
    a, b = (np.cov(x, rowvar=False) for x in samples)
    shift = samples[0].mean(0) - samples[1].mean(0)
    common = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = shift @ shift + np.trace(a) + np.trace(b) - 2 * common
    assert frechet.distance(*map(statistics, samples)) == pytest.approx(expected)


def test_equal_sets_have_no_distance_even_with_fewer_pictures_than_features():
    values = np.random.default_rng(2).normal(5, 3, (20, 64))
    a, b = statistics(values), statistics(values[::-1].copy())
    assert frechet.distance(a, b) == pytest.approx(0, abs=1e-9 * np.trace(a.covariance()))
    assert frechet.distance(a, b) >= 0


def test_the_distance_is_symmetric_and_grows_with_the_shift():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(40, 8)), rng.normal(size=(30, 8)) * 2
    found = [frechet.distance(statistics(a), statistics(b + shift)) for shift in (0, 1, 2, 3)]
    assert found == sorted(found)
    assert found[0] > 0
    swapped = frechet.distance(statistics(b + 2), statistics(a))
    assert swapped == pytest.approx(found[2], rel=1e-12)


def test_batches_give_the_mean_and_covariance_of_all_at_once():
    values = np.random.default_rng(4).normal(1000, 0.1, (37, 5))
    found = frechet.Statistics()
    for start, end in ((0, 1), (1, 2), (2, 20), (20, 37)):
        found.add(torch.from_numpy(values[start:end]))
    assert found.count == 37
    assert np.allclose(found.mean, values.mean(0), rtol=1e-14)
    assert np.allclose(found.covariance(), np.cov(values, rowvar=False), rtol=1e-9)


def test_features_that_were_kept_and_their_covariance_give_one_distance():
    rng = np.random.default_rng(5)
    a, b = (statistics(rng.normal(3, 1, (count, 30))) for count in (12, 20))
    kept = frechet.distance(a, b)
    for found in (a, b):
        assert found.factor().shape == (found.count, 30)
        found.covariance()
        assert found.factor().shape == (30, 30)
    assert frechet.distance(a, b) == pytest.approx(kept, rel=1e-6)


def test_only_the_distance_over_inception_is_called_fid():
    assert [frechet.score(network) for network in frechet.NETWORKS] == [
        *(f"frechet ({network})" for network in ("squeeze", "alex", "vgg16", "vgg19")),
        "fid",
    ]


def test_fewer_than_two_pictures_have_no_distance():
    one = statistics(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="1 pictures have no covariance"):
        frechet.distance(one, statistics(np.zeros((2, 3))))


@pytest.mark.parametrize(("network", "count"), [("squeeze", 512), ("alex", 256)])
def test_features_are_the_means_of_the_last_tap(folder, network, count):
    image = torch.rand(2, 3, 64, 80) * 2 - 1
    found = frechet.load(network, folder)(image)
    assert found.shape == (2, count)
    trunk = features.load_features(
        network, folder / frechet.FILES[network], list(features.TAPS[network])
    )
    last = list(trunk(features.normalise(image)).values())[-1]
    assert torch.allclose(found[1, 7], last[1, 7].mean())


def test_a_network_whose_weights_are_not_there_is_refused(folder):
    with pytest.raises(BadData, match="vgg19_torchvision_features.safetensors cannot be read"):
        frechet.load("vgg19", folder)
