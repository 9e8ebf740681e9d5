"""`bdm serve`: mistakes are told before anything listens. tests/server starts it."""

import socket
import sys
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
        (["--replicas", 2], "--replicas needs --engine ray"),
        (["--ray-address", "auto"], "--ray-address needs --engine ray"),
        (["--engine", "ray", "--replicas", 0], "--replicas is 0; allowed: 1 to"),
        (["--engine", "ray", "--device", "cpu"], "--device is for processes of this machine"),
    ],
)
def test_mistakes_are_one_line(bdm: Callable, tmp_path: Path, options: list, message: str) -> None:
    outcome = bdm("serve", "--data", tmp_path, *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("address", "message"),
    [("127.0.0.1:1", "nothing answers at"), ("ray://127.0.0.1:10001", "give HOST:PORT")],
)
def test_a_cluster_that_is_not_there_is_told(
    bdm: Callable, tmp_path: Path, address: str, message: str
) -> None:
    pytest.importorskip("ray")
    options = ["--port", 0, "--data", tmp_path, "--engine", "ray", "--ray-address", address]
    outcome = bdm("serve", *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_ray_that_is_not_installed_is_told(
    bdm: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = bdm("serve", "--port", 0, "--data", tmp_path / "data", "--engine", "ray")
    assert outcome.code == 2
    assert "pip install 'bridge-diffusion[ray]'" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_a_taken_port_is_told(bdm: Callable, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = bdm("serve", "--port", port, "--data", tmp_path)
    assert outcome.code == 2
    assert f"127.0.0.1:{port}" in outcome.err
    assert "--port" in outcome.err
