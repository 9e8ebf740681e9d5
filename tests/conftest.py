"""Settings that hold for every test: one thread (sums must agree), no network, no colours."""

import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["NO_COLOR"] = "1"

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# Tests time nothing: how long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

REFERENCE = Path(__file__).parent / "golden" / "case-a-sd15" / "weights"


@pytest.fixture(scope="session")
def reference_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference case's folder, with its UNet made again from its seed.

    The rule is the reference's own (see its README); the weights that come out are the reference's
    to the last bit, so 4 MiB need not be in the repository.
    """
    folder = shutil.copytree(REFERENCE, tmp_path_factory.mktemp("reference") / "weights")
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
    generator = torch.Generator().manual_seed(1101)
    state = unet.state_dict()
    for name in sorted(state):
        z = torch.randn(state[name].shape, generator=generator)
        if name.endswith("bias"):
            state[name] = 0.1 * z
        elif "norm" in name.split(".")[-2]:
            state[name] = 1 + 0.1 * z
        else:
            gain = 1.5 if ".to_q." in name or ".to_k." in name else 1.0
            state[name] = z * (gain * z[0].numel() ** -0.5)
    unet.load_state_dict(state)
    unet.save_pretrained(folder / "unet")
    return folder
