"""Which models a bridge fits: in ComfyUI's words for them, and in ours."""

from typing import Any

import pytest
from bridge_nodes.fit import check_fits, check_prediction

from bridge_diffusion import BridgeConfig, BridgeError
from bridge_diffusion.text import RELEASE_ENCODING

# As ComfyUI's model detection writes them, of what it compares.
SD15 = {
    "model_channels": 320,
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "adm_in_channels": None,
}
SDXL = {
    "model_channels": 320,
    "channel_mult": [1, 2, 4],
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "adm_in_channels": 2816,
}
SD15_BRANCH = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "layers_per_block": 2,
    "transformer_layers_per_block": 1,
}
SDXL_BRANCH = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "projection_class_embeddings_input_dim": 2816,
}


def config(family: Any, prediction: str = "epsilon") -> BridgeConfig:
    return BridgeConfig(
        family=family,
        text_encoding=RELEASE_ENCODING,
        native_width=1024,
        prediction_type=prediction,
    )


def test_a_bridge_fits_its_family() -> None:
    check_fits(SD15, SD15_BRANCH, config("sd15"))
    check_fits(SDXL, SDXL_BRANCH, config("sdxl"))
    check_fits({**SD15, "in_channels": 9}, SD15_BRANCH, config("sd15"))  # inpainting


@pytest.mark.parametrize(
    ("unet", "branch", "family", "message"),
    [
        (SDXL, SD15_BRANCH, "sd15", "Stable Diffusion 1.5 with channels"),
        (SD15, SDXL_BRANCH, "sdxl", "Stable Diffusion XL with channels"),
        ({**SD15, "transformer_depth": [1] * 8}, SD15_BRANCH, "sd15", "transformer layers"),
        ({**SD15, "num_res_blocks": [1] * 4}, SD15_BRANCH, "sd15", "residual blocks"),
        ({**SDXL, "adm_in_channels": 2560}, SDXL_BRANCH, "sdxl", "size numbers"),
        ({"image_model": "flux"}, SD15_BRANCH, "sd15", "another architecture"),
    ],
)
def test_other_models_are_refused(
    unet: dict[str, Any], branch: dict[str, Any], family: str, message: str
) -> None:
    with pytest.raises(BridgeError, match=message):
        check_fits(unet, branch, config(family))


def test_another_prediction_is_refused() -> None:
    check_prediction("v_prediction", config("sd15", "v_prediction"))
    with pytest.raises(BridgeError, match="predicts epsilon, this model predicts v_prediction"):
        check_prediction("v_prediction", config("sd15"))
