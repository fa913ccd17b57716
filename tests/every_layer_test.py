"""What must hold for every network, on random ones of all layers; on 10,000 by `make bench`."""

import pathlib

import pytest

from tests import every_layer

_BLOCK = 5


@pytest.mark.parametrize("block", range(1))
def test_identities_on_random_networks_of_every_layer(block):
    pruned = [every_layer.check(seed) for seed in range(_BLOCK * block, _BLOCK * (block + 1))]
    assert any(pruned)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(1, 2000))
def test_identities_on_many_random_networks(block):
    for seed in range(_BLOCK * block, _BLOCK * (block + 1)):
        every_layer.check(seed)


@pytest.mark.parametrize("block", range(1))
def test_random_networks_are_merged_again(block):
    assert any([every_layer.check_merged_again(seed) for seed in range(4 * block, 4 * block + 4)])


@pytest.mark.slow
@pytest.mark.parametrize("block", range(1, 200))
def test_many_random_networks_are_merged_again(block):
    for seed in range(4 * block, 4 * block + 4):
        every_layer.check_merged_again(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_files_of_many_random_networks(seed, tmp_path):
    every_layer.check_files(seed, pathlib.Path(tmp_path, "out"))
