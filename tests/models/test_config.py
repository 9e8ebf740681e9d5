"""`bridge.json` and the model card."""

import json
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge_diffusion import BridgeError
from bridge_diffusion.models.config import BridgeConfig, model_card, published_config
from bridge_diffusion.text import RELEASE_ENCODING, TextEncoding

CONFIG = BridgeConfig(
    family="sd15",
    text_encoding=TextEncoding(family="bert", window=32),
    native_width=256,
    scheduler={"timestep_spacing": "trailing"},
    languages=("zh", "ar"),
    licence="CC-BY-4.0",
    training_data="emoji",
)


@pytest.mark.parametrize("config", [CONFIG, published_config("sdxl", 1024)])
def test_round_trip(config: BridgeConfig) -> None:
    assert BridgeConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_published_bridges_get_the_way_of_the_release() -> None:
    config = published_config("sd15", 1024)
    assert config.text_encoding == RELEASE_ENCODING
    assert config.scheduler["final_sigmas_type"] == "sigma_min"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2, "new": 1}, "update bridge-diffusion"),
        ({"family": "sd3"}, "known are sd15, sdxl"),
        ({"native_width": "wide"}, "native_width"),
        ({"native_width": True}, "native_width"),
        ({"licens": "MIT"}, "licens"),
        ({"text_encoding": {"family": "bert", "windows": 3}}, "windows"),
    ],
)
def test_mistakes_are_named(change: dict, message: str) -> None:
    with pytest.raises(BridgeError, match=message):
        BridgeConfig.from_json({**CONFIG.to_json(), **change})


def test_missing_fields_are_named() -> None:
    values = CONFIG.to_json()
    del values["text_encoding"]
    with pytest.raises(BridgeError, match="text_encoding"):
        BridgeConfig.from_json(values)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(sorted(CONFIG.to_json())), json_values))
def test_any_json_is_read_or_refused(values: dict) -> None:
    with suppress(BridgeError):
        BridgeConfig.from_json({**CONFIG.to_json(), **values})


def test_the_card_says_what_a_user_must_know() -> None:
    card = model_card(CONFIG)
    for fact in ("CC-BY-4.0", "- zh", "- ar", "emoji", "bert", "Stable Diffusion 1.5", "trailing"):
        assert fact in card
