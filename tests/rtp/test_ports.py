import errno
import socket
from pathlib import Path

import pytest

from mediaserver.rtp.ports import DSCP_EF, NoPortsLeftError, PortAllocator


def free_range(count: int, host: str = "127.0.0.1") -> tuple[int, int]:
    """A range of `count` even ports that are all free now, below the ephemeral ones."""
    for start in range(20000, 32000, 2 * count):
        ports = range(start, start + 2 * count, 2)
        bound: list[socket.socket] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            for port in ports:
                sock = socket.socket(family, socket.SOCK_DGRAM)
                bound.append(sock)
                sock.bind((host, port))
        except OSError:
            continue
        finally:
            for sock in bound:
                sock.close()
        return ports[0], ports[-1]
    raise AssertionError("no free range")


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


def test_ports_are_even_and_in_the_range() -> None:
    low, high = free_range(8)
    allocator = PortAllocator("127.0.0.1", low - 1, high + 1)
    sockets = [allocator.allocate() for _ in range(8)]
    try:
        assert sorted(port_of(sock) for sock in sockets) == list(range(low, high + 1, 2))
    finally:
        for sock in sockets:
            sock.close()


def test_exhaustion_says_so_and_a_freed_port_serves_again() -> None:
    low, high = free_range(4)
    allocator = PortAllocator("127.0.0.1", low, high)
    sockets = [allocator.allocate() for _ in range(4)]
    try:
        with pytest.raises(NoPortsLeftError, match=rf"127\.0\.0\.1: all 4 even ports of {low}-{high}"):
            allocator.allocate()
        freed = port_of(sockets[2])
        sockets.pop(2).close()
        sockets.append(allocator.allocate())
        assert port_of(sockets[-1]) == freed
    finally:
        for sock in sockets:
            sock.close()


def test_a_freed_port_is_the_last_to_be_used_again() -> None:
    low, high = free_range(6)
    allocator = PortAllocator("127.0.0.1", low, high)
    seen = []
    for _ in range(12):
        with allocator.allocate() as sock:
            seen.append(port_of(sock))
    assert len(set(seen[:6])) == 6
    assert seen[6:] == seen[:6]


def test_a_port_of_another_program_is_passed_over() -> None:
    low, high = free_range(3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", low + 2))
        allocator = PortAllocator("127.0.0.1", low, high)
        with allocator.allocate() as one, allocator.allocate() as two:
            assert {port_of(one), port_of(two)} == {low, high}


def test_walks_start_anywhere() -> None:
    starts = {PortAllocator("127.0.0.1")._next for _ in range(20)}
    assert len(starts) > 10


def test_the_socket_is_ready_for_the_event_loop() -> None:
    with PortAllocator("127.0.0.1").allocate() as sock:
        assert sock.getblocking() is False
        assert sock.type == socket.SOCK_DGRAM
        assert 16384 <= port_of(sock) <= 32766
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == DSCP_EF << 2


def test_ipv6() -> None:
    try:
        low, high = free_range(2, "::1")
    except AssertionError:
        pytest.skip("no IPv6 on this machine")
    with PortAllocator("::1", low, high).allocate() as sock:
        assert sock.family == socket.AF_INET6
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) == DSCP_EF << 2


def test_a_foreign_address_is_an_error_not_exhaustion() -> None:
    with pytest.raises(OSError) as caught:
        PortAllocator("192.0.2.1").allocate()
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize(("low", "high"), [(20001, 20001), (20002, 20000), (0, 100), (65000, 70000)])
def test_a_range_without_ports_is_refused(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="no even port"):
        PortAllocator("127.0.0.1", low, high)


def test_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="does not appear to be an IP"):
        PortAllocator("localhost")


def test_a_pair_is_an_even_port_and_the_one_above() -> None:
    low, high = free_range(4)
    rtp, rtcp = PortAllocator("127.0.0.1", low, high).allocate_pair()
    with rtp, rtcp:
        assert port_of(rtp) % 2 == 0
        assert port_of(rtcp) == port_of(rtp) + 1
        assert rtcp.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == DSCP_EF << 2
        assert not rtcp.getblocking()


def test_a_pair_needs_both_its_ports() -> None:
    low, high = free_range(2)
    allocator = PortAllocator("127.0.0.1", low, high + 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", low + 1))
        for _ in range(3):  # wherever the walk begins
            rtp, rtcp = allocator.allocate_pair()
            with rtp, rtcp:
                assert port_of(rtp) == low + 2
    first, second = allocator.allocate_pair(), allocator.allocate_pair()
    with pytest.raises(NoPortsLeftError, match="pairs of ports"):
        allocator.allocate_pair()
    for sock in (*first, *second):
        sock.close()


def test_the_last_even_port_has_no_pair() -> None:
    low, _ = free_range(2)
    with pytest.raises(NoPortsLeftError):
        PortAllocator("127.0.0.1", low, low).allocate_pair()
    PortAllocator("127.0.0.1", low, low).allocate().close()


def test_exhaustion_leaves_no_socket_behind() -> None:
    low, high = free_range(2)
    allocator = PortAllocator("127.0.0.1", low, high)  # the last has none above it within the range
    rtp, rtcp = allocator.allocate_pair()
    with rtp, rtcp:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            with pytest.raises(NoPortsLeftError):
                allocator.allocate_pair()
        assert len(list(Path("/proc/self/fd").iterdir())) == before
