"""One client is not an address: it can change that within its network at will."""

from __future__ import annotations

import pytest

from headwater.web._addresses import Proxies, network_of, plain


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("a socket", "a socket"),
        ("x" * 100, "x" * 64),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_what_counts_as_one_client(address, network):
    assert network_of(address) == network


@pytest.mark.parametrize(
    ("listed", "trusted", "others"),
    [
        ("127.0.0.1", ["127.0.0.1", "::ffff:127.0.0.1"], ["127.0.0.2", "::1", "x"]),
        ("10.0.0.0/8, ::1", ["10.1.2.3", "::1"], ["11.0.0.1"]),
        (["10.0.0.1", "proxy"], ["10.0.0.1", "proxy"], ["10.0.0.2"]),
        ("*", ["10.0.0.1", "proxy"], []),
        (None, [], ["127.0.0.1"]),
    ],
)
def test_which_peers_are_proxies(listed, trusted, others):
    proxies = Proxies(listed)
    assert [each in proxies for each in trusted] == [True] * len(trusted)
    assert [each in proxies for each in others] == [False] * len(others)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:1:2", "::ffff:1:2"),
        ("2001:db8::1", "2001:db8::1"),
        ("/a.socket", "/a.socket"),
        ("", ""),
    ],
)
def test_an_address_of_ipv4_is_written_as_such(address, found):
    assert plain(address) == found
