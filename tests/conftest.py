"""What every test shares: one thread (sums must agree), no network, and the reference case.

The reference case is the paper's release at tiny size; `tests/golden/case-a-sd15/README.md` tells
how it was made.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["NO_COLOR"] = "1"

import pytest
import torch
from diffusers import ControlNetModel, ModelMixin, StableDiffusionPipeline, UNet2DConditionModel
from hypothesis import HealthCheck, settings
from safetensors.torch import save_file
from torch import Tensor

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.text import RELEASE_ENCODING, NativeTextEncoder

torch.set_num_threads(1)

# Tests time nothing: how long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

REFERENCE = Path(__file__).parent / "golden" / "case-a-sd15" / "weights"
_PARTS = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}
# The larger nets are made from their seeds instead of lying in the repository: 6 MiB. The hashes
# are those of the release's own files.
_DRAWN = {
    "unet": (
        UNet2DConditionModel,
        1101,
        "d3f48af7cf482287f6924eb58624305cb67cafc11cbf9ebefe50b228dd983680",
    ),
    "controlnet": (
        ControlNetModel,
        1102,
        "f9b5bf03335e77202a9bb92904f03d119ddefd04bdf2908d829d4333357b4cfc",
    ),
}
_FOREIGN = {"_class_name", "_diffusers_version", "is_xl"}  # what stock classes need not be told


@pytest.fixture(scope="session")
def reference_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ordinary pipeline folder, with the branch and the native text encoder beside its parts.

    Tests must not change it.
    """
    folder = shutil.copytree(REFERENCE, tmp_path_factory.mktemp("reference") / "weights")
    for part, (kind, seed, wanted) in _DRAWN.items():
        state = _draw(kind, json.loads((folder / part / "config.json").read_text()), seed)
        values = b"".join(state[name].numpy().tobytes() for name in sorted(state))
        assert hashlib.sha256(values).hexdigest() == wanted, f"not the reference's {part}"
        file = folder / part / "diffusion_pytorch_model.safetensors"
        save_file(state, file, {"format": "pt"})
    index = {"_class_name": "StableDiffusionPipeline", **_PARTS}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _draw(kind: type[ModelMixin], config: dict, seed: int) -> dict[str, Tensor]:
    """Weights by the rule in the reference's README."""
    with torch.device("meta"):
        network = kind.from_config(
            {k: v for k, v in config.items() if k[0] != "_" and k != "is_xl"}
        )
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in sorted(network.state_dict().items()):
        if name.startswith("controlnet_cond_embedding."):
            continue  # the release's branch has none
        z = torch.randn(tensor.shape, generator=generator)
        if name.endswith("bias"):
            state[name] = 0.1 * z
        elif "norm" in name.split(".")[-2]:
            state[name] = 1 + 0.1 * z
        else:
            gain = 1.5 if ".to_q." in name or ".to_k." in name else 1.0
            gain = 0.5 if name.startswith("controlnet_") else gain
            state[name] = z * (gain * z[0].numel() ** -0.5)
    return state


@pytest.fixture(scope="session")
def chinese_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference case's native text encoder with its tokenizer, as one model folder."""
    folder = tmp_path_factory.mktemp("chinese_clip")
    for part in ("native_text_encoder", "native_tokenizer"):
        shutil.copytree(REFERENCE / part, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def pipe(reference_weights: Path) -> StableDiffusionPipeline:
    """The reference case's parts in a stock pipeline."""
    pipe = StableDiffusionPipeline.from_pretrained(
        reference_weights, safety_checker=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def new_release_bridge(reference_weights: Path, chinese_clip_folder: Path) -> Callable[[], Bridge]:
    """The published branch with its text encoder, anew at each call, not attached."""

    def make() -> Bridge:
        text = NativeTextEncoder.from_pretrained(chinese_clip_folder, RELEASE_ENCODING)
        return Bridge.from_pretrained(reference_weights / "controlnet", text_encoder=text)

    return make
