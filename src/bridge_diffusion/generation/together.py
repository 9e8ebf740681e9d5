"""Which requests need the same model, and which can be drawn in one batch.

Imports nothing heavy: a queue sorts requests before any model is loaded.
"""

import json

from bridge_diffusion.generation.request import GenerationRequest

# What each picture of a batch may have for itself.
_OF_A_PICTURE = ("prompt", "english", "negative", "negative_english", "scale", "seed", "n")
# What a run is given beside them; everything else is loaded with the model.
_OF_A_RUN = ("start", "end", "steps", "guidance", "scheduler", "size", "init_image", "strength")
_PICTURES = ("mask", "control", "ip_image")


def model_key(request: GenerationRequest) -> str:
    """Equal for requests that one opened model can draw."""
    values = request.to_json()
    for name in (*_OF_A_PICTURE, *_OF_A_RUN, *_PICTURES):
        del values[name]
    values["lora"] = [str(use) for uses in request.loras() for use in uses]
    # A ControlNet's pipeline is another one where there is a mask.
    values["masked"] = request.mask is not None and bool(request.control_net)
    return json.dumps(values, sort_keys=True)


def batch_key(request: GenerationRequest) -> str | None:
    """Equal for requests whose pictures can be drawn in one batch; None for one that cannot.

    Texts, bridge scale and seed may differ.
    """
    values = request.to_json()
    if any(values[name] for name in _PICTURES):
        return None
    return model_key(request) + json.dumps([values[name] for name in _OF_A_RUN])
