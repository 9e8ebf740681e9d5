"""`bdm serve`: mistakes are told before anything listens. tests/server starts it."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest


def test_another_address_needs_a_token(bdm: Callable, tmp_path: Path) -> None:
    outcome = bdm("serve", "--host", "0.0.0.0", "--data", tmp_path)
    assert outcome.code == 2
    assert "BDM_TOKEN" in outcome.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", 0], "--batch is 0"),
        (["--port", 70000], "--port is 70000"),
        (["--plugins", "nowhere"], "--plugins nowhere is no folder"),
        (["--port", 0, "--model", "nowhere"], "nothing at nowhere"),
    ],
)
def test_mistakes_are_one_line(bdm: Callable, tmp_path: Path, options: list, message: str) -> None:
    outcome = bdm("serve", "--data", tmp_path, *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_taken_port_is_told(bdm: Callable, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = bdm("serve", "--port", port, "--data", tmp_path)
    assert outcome.code == 2
    assert f"127.0.0.1:{port}" in outcome.err
    assert "--port" in outcome.err
