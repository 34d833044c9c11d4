"""Who may speak to us."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from sip.access import REFUSALS_PER_SECOND, AccessList

ACCESS = AccessList([ip_network("127.0.0.0/8"), ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")])


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "192.0.2.255", "2001:db8::9", "::ffff:192.0.2.1", "2001:db8::9%eth0"]
)
def test_allowed(host: str) -> None:
    assert ACCESS.allows(host)


@pytest.mark.parametrize("host", ["192.0.3.1", "8.8.8.8", "::1", "::ffff:8.8.8.8", "nonsense", ""])
def test_not_allowed(host: str) -> None:
    assert not ACCESS.allows(host)


def test_nobody_is_allowed_by_an_empty_list() -> None:
    assert not AccessList([]).allows("127.0.0.1")


def test_refusals_are_bounded_each_second() -> None:
    access = AccessList([])
    assert [access.may_refuse(5.1) for _ in range(20)].count(True) == REFUSALS_PER_SECOND
    assert not access.may_refuse(5.9)
    assert access.may_refuse(6.0)
