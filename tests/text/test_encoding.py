import json

import pytest

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.text import RELEASE_ENCODING, TextEncoding


def test_json_round_trip():
    text = json.dumps(RELEASE_ENCODING.to_json())
    assert TextEncoding.from_json(json.loads(text)) == RELEASE_ENCODING


def test_native_length_of_the_release():
    assert RELEASE_ENCODING.native_tokens == 5 * 50 + 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"family": "bert", "windw": 52}, "unknown field 'windw'"),
        ({"window": 52}, "'family' is missing"),
        ({"family": "bert", "window": "52"}, "window is '52'; it must be of type int"),
        ({"family": "bert", "window": True}, "window is True; it must be of type int"),
        ({"family": "bert", "window": 2}, "at least 3"),
        ({"family": "bert", "max_windows": 0}, "at least 1"),
        ({"family": "bert", "weights": "dropped"}, "use one of applied, ignored"),
        ({"family": "bert", "special_ids": "fixed"}, "use one of tokenizer, release"),
    ],
)
def test_wrong_fields_are_named(values, message):
    with pytest.raises(BridgeError, match=message):
        TextEncoding.from_json(values)
