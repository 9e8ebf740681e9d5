"""Addresses of a Ray cluster that cannot be one, or where nothing is; no Ray is started."""

import socket

import pytest

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.ray_cluster import connected

pytest.importorskip("ray")


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:", "head:0", ":6379"])
def test_what_is_no_address_is_said(address: str) -> None:
    words = "give HOST:PORT of the cluster's head"
    with pytest.raises(BridgeError, match=words), connected(address):
        pass


def test_where_nothing_answers_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        port = free.getsockname()[1]
        words = rf"nothing answers at --ray-address 127\.0\.0\.1:{port} \(Connection refused\)"
        with pytest.raises(BridgeError, match=words), connected(f"127.0.0.1:{port}"):
            pass
