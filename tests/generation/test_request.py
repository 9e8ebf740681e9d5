import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.request import LARGEST_SEED, GenerationRequest, parse_size

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    prompt=TEXT.filter(str.strip),
    english=TEXT,
    scale=st.floats(min_value=-10, max_value=10),
    guidance=st.floats(min_value=0, max_value=1000),
    seed=st.none() | st.integers(min_value=0, max_value=LARGEST_SEED),
    size=st.none() | st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    mask=st.none() | TEXT.filter(lambda text: "\0" not in text).map(Path),
    embedding=st.lists(TEXT, max_size=3).map(tuple),
    nets=st.lists(st.tuples(TEXT, st.floats(min_value=0, max_value=10)), max_size=3),
)
def test_json_keeps_a_request_exactly(
    mask: Path | None, nets: list[tuple[str, float]], **values: object
) -> None:
    request = GenerationRequest(
        **values,
        init_image=mask,
        mask=mask,
        control_net=tuple(name for name, _ in nets),
        control=(Path("c.png"),) * len(nets),
        control_scale=tuple(scale for _, scale in nets),
    )
    assert GenerationRequest.from_json(json.loads(json.dumps(request.to_json()))) == request


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": " \n"}, "prompt is empty"),
        ({"prompt": "\udce7"}, "UTF-8"),
        ({"negative_english": "\udce7"}, "--negative-english"),
        ({"steps": 0}, "--steps is 0"),
        ({"steps": 1001}, "--steps is 1001"),
        ({"n": 0}, "--n is 0"),
        ({"scale": math.nan}, "--scale"),
        ({"guidance": math.inf}, "--guidance"),
        ({"seed": -1}, "--seed is -1"),
        ({"seed": LARGEST_SEED, "n": 2}, "--seed"),
        ({"size": (0, 8)}, "--size is 0x8"),
        ({"start": 0.5, "end": 0.5}, "--start 0.5"),
        ({"end": 1.5}, "--end"),
        ({"mask": Path("m.png")}, "--init-image"),
        ({"init_image": Path("i.png"), "strength": 0.01}, "--strength 0.01"),
        ({"strength": 0.5}, "--init-image"),
        ({"bridge": "none", "english": "x"}, "--bridge none"),
        ({"bridge": "none", "scale": 0.5}, "give no --scale"),
        ({"model": "m"}, "--model needs --bridge"),
        ({"scheduler": "nonsense"}, "dpm++"),
        ({"dtype": "int8"}, "fp32"),
        ({"steps": 2.5}, "--steps"),
        ({"steps": True}, "--steps"),
        ({"size": (8, 8, 8)}, "--size"),
        ({"lora": ("x", 1)}, "tuple[str, ...]"),
        ({"lora": "x"}, "tuple[str, ...]"),
        ({"lora": ("x:1e9",)}, "--lora"),
        ({"lora": ("x", "x:0.5")}, "named twice"),
        ({"prompt": "<lora:x>"}, "prompt is empty"),
        ({"negative": "<lora:x>"}, "--negative"),
        ({"control": (Path("c.png"),)}, "--control needs --control-net"),
        ({"control_net": ("n",), "control": (Path("c"),), "control_scale": (11,)}, "0 to 10"),
        (
            {"control_net": ("n", "m"), "control": (Path("c"),)},
            "--control-net is given 2 times and --control once; give one --control for each",
        ),
        (
            {"control_net": ("n",) * 2, "control": (Path("c"),) * 2, "control_scale": (1,) * 3},
            "--control-net is given 2 times and --control-scale 3 times",
        ),
        ({"control": Path("c.png"), "control_net": "n"}, "tuple"),
        ({"ip_image": Path("c.png")}, "--ip-image needs --ip-adapter"),
    ],
)
def test_what_is_not_allowed_is_said(values: dict, message: str) -> None:
    with pytest.raises(BridgeError) as error:
        GenerationRequest(**{"prompt": "红包", **values})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_request_with_one_controlnet_by_itself_is_read() -> None:
    """As pictures of earlier versions have it, and those without any."""
    one = {"prompt": "x", "control_net": "n", "control": "c.png", "control_scale": 0.5}
    read = GenerationRequest.from_json(one)
    assert (read.control_net, read.control, read.control_scale) == (
        ("n",),
        (Path("c.png"),),
        (0.5,),
    )
    none = {"prompt": "x", "control_net": None, "control": None, "control_scale": 1.0}
    assert GenerationRequest.from_json(none) == GenerationRequest(prompt="x")
    with pytest.raises(BridgeError, match="--control-scale needs --control-net"):
        GenerationRequest.from_json({**none, "control_scale": 0.5})


@pytest.mark.parametrize("values", [{"prompt": "x", "nonsense": 1}, {}, {"prompt": 1}])
def test_json_of_another_kind_is_refused(values: dict) -> None:
    with pytest.raises(BridgeError):
        GenerationRequest.from_json(values)


def test_sizes() -> None:
    assert parse_size("512x768") == parse_size("512X768") == parse_size("512×768") == (512, 768)
    for text in ("512", "x", "-8x8", "8x8x8", "", "8.5x8"):
        with pytest.raises(BridgeError, match="512x768"):
            parse_size(text)
