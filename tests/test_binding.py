"""A port that answers at one of the machine's addresses alone."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from charlstm import binding
from charlstm.binding import hold, hold_port, own_address

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
ADDRESSES = ["127.0.0.1", "127.0.0.2", "127.1.2.3", "::1"]


@pytest.fixture(params=["IPv4", "both"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """One that answers everywhere, as TensorFlow's does."""
    if request.param == "both":
        if not socket.has_dualstack_ipv6() or own_address("::1") is None:
            pytest.skip("no IPv6")
        server = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        server = socket.create_server(("", 0))
    with server:
        yield server


def reached(listener: socket.socket) -> list[str]:
    """List the addresses at which data goes both ways."""
    found = []
    for address in ADDRESSES:
        try:
            client = socket.create_connection((address, listener.getsockname()[1]), timeout=0.4)
        except OSError:
            continue
        with client, listener.accept()[0] as server:
            for one, other in ((client, server), (server, client)):
                one.sendall(b"word" * 10_000)
                assert other.recv(4, socket.MSG_WAITALL) == b"word"
            found.append(address)
    return found


@pytest.mark.parametrize("host", ADDRESSES)
def test_a_held_port_answers_at_its_address_alone(listener: socket.socket, host: str) -> None:
    everywhere = reached(listener)
    assert everywhere[:3] == ADDRESSES[:3]
    if (address := own_address(host)) is None:
        pytest.skip("no IPv6")
    if host not in everywhere:
        pytest.skip("a socket of IPv4 has no address of IPv6")
    hold(listener, address)
    assert reached(listener) == [host]


def test_all_that_listen_on_a_port_are_held_and_no_other(listener: socket.socket) -> None:
    address, port = ipaddress.ip_address("127.0.0.2"), listener.getsockname()[1]
    with socket.socket() as idle, socket.create_server(("", 0)) as other, Path(os.devnull).open():
        before = sorted(Path("/proc/self/fd").iterdir())
        assert hold_port(port, address) == 1
        assert hold_port(port, address) == 1
        assert hold_port(1, address) == 0
        assert sorted(Path("/proc/self/fd").iterdir()) == before  # also of what is no socket
        assert reached(listener) == ["127.0.0.2"]
        assert reached(other) == ADDRESSES[:3]
        idle.bind(("", 0))
        assert hold_port(idle.getsockname()[1], address) == 0  # it does not listen


def test_what_the_system_refuses_is_not_held(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding, "_SO_ATTACH_FILTER", 9_999)
    address = ipaddress.ip_address("127.0.0.1")
    assert hold_port(listener.getsockname()[1], address) == 0
    with pytest.raises(OSError, match="not available"):
        hold(listener, address)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.77", False),  # of no machine
        ("2001:db8::7", False),
        ("localhost", False),  # a name may be another address elsewhere
        ("fe80::1%lo", False),
        ("", False),
    ],
)
def test_whose_address_it_is(host: str, expected: bool) -> None:
    assert (own_address(host) is not None) == expected


def test_other_systems_have_no_such_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert own_address("127.0.0.1") is None
