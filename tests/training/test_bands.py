"""The loss by bands of timesteps."""

import pytest
import torch

from bridge_diffusion.training.bands import band_name, band_sums, joined


def test_a_bands_mean_is_that_of_its_images_over_several_batches() -> None:
    batches = [
        (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 249, 250])),
        (torch.tensor([6.0]), torch.tensor([100])),
    ]
    sums = [band_sums(errors, t, 1000) for errors, t in batches]
    means = {name: sum(s[name].item() for s in sums) / 2 for name in sums[0]}
    told = joined({**means, "loss": 7.0})
    assert told == {"loss": 7.0, band_name(0, 1000): pytest.approx(3.0), band_name(1, 1000): 3.0}


def test_the_bands_share_all_timesteps() -> None:
    assert [band_name(i, 1000).rpartition("/")[2] for i in range(4)] == [
        "0-249", "250-499", "500-749", "750-999",
    ]  # fmt: skip
    sums = band_sums(torch.ones(1000), torch.arange(1000), 1000)
    assert [value.item() for name, value in sums.items() if name.endswith("count")] == [250] * 4
