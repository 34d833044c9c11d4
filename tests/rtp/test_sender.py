import errno
import socket
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.sender import DatagramSender, pack_sockaddr


def bound(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(10)
    try:
        sock.bind((host, 0))
    except OSError:
        sock.close()
        pytest.skip(f"no {host} on this machine")
    return sock


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams_arrive_whole_and_from_the_socket(host: str) -> None:
    with bound(host) as ours, bound(host) as one, bound(host) as two:
        sender = DatagramSender(ours)
        for target, datagram in ((one, b"a\0b"), (one, b""), (two, bytes(range(256)) * 5), (one, b"again")):
            sender.send(datagram, target.getsockname()[:2])
            data, source = target.recvfrom(2000)
            assert (data, source[:2]) == (datagram, ours.getsockname()[:2])


def test_errors_are_oserrors_with_their_number() -> None:
    with bound("127.0.0.1") as ours:
        sender = DatagramSender(ours)
        with pytest.raises(OSError, match=r".") as caught:
            sender.send(bytes(70000), ours.getsockname())
        assert caught.value.errno == errno.EMSGSIZE
        with pytest.raises(PermissionError):
            sender.send(b"x", ("255.255.255.255", 9))  # SO_BROADCAST is off
        sender.send(b"fine", ours.getsockname())
        assert ours.recv(10) == b"fine", "an error leaves no trace"


@pytest.mark.parametrize("host", ["::1", "localhost", ""])
def test_a_foreign_address_is_refused(host: str) -> None:
    with bound("127.0.0.1") as ours:
        with pytest.raises(OSError, match="no numeric address") as caught:
            DatagramSender(ours).send(b"x", (host, 9))
        assert caught.value.errno == errno.EAFNOSUPPORT


def test_a_full_buffer_does_not_block() -> None:
    """On a blocking socket too: the interpreter lock is held during the call."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        # A connected UNIX socket takes an empty address, and unlike UDP's on loopback its buffer fills.
        ours.setblocking(True)
        sender = DatagramSender(ours)
        sender._address = ("", 0)
        with pytest.raises(BlockingIOError):
            for _ in range(100_000):
                sender.send(bytes(172), ("", 0))


def test_the_interpreter_lock_is_kept() -> None:
    """A thread that waits for the lock gets it when its interval is over, not during a send."""
    ready, go, ran = threading.Event(), threading.Lock(), threading.Event()

    def rival() -> None:
        ready.set()
        go.acquire()
        ran.set()

    interval = sys.getswitchinterval()
    go.acquire()
    thread = threading.Thread(target=rival)
    thread.start()
    assert ready.wait(10)
    with bound("127.0.0.1") as ours, bound("127.0.0.1") as theirs:
        sender, address = DatagramSender(ours), theirs.getsockname()
        try:
            sys.setswitchinterval(100)
            go.release()
            for _ in range(20_000):
                sender.send(b"x", address)
            assert not ran.is_set()
        finally:
            sys.setswitchinterval(interval)
            thread.join()
    assert ran.is_set()


@given(st.ip_addresses(v=4), st.integers(1, 65535))
def test_ipv4_layout(host, port: int) -> None:
    packed = pack_sockaddr(socket.AF_INET, (str(host), port))
    assert len(packed) == 16
    assert int.from_bytes(packed[:2], "little" if packed[0] else "big") == socket.AF_INET
    assert packed[2:8] == port.to_bytes(2, "big") + host.packed


@given(st.ip_addresses(v=6), st.integers(1, 65535))
def test_ipv6_layout(host, port: int) -> None:
    packed = pack_sockaddr(socket.AF_INET6, (str(host), port))
    assert len(packed) == 28
    assert packed[2:8] == port.to_bytes(2, "big") + bytes(4)
    assert packed[8:] == host.packed + bytes(4)


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_what_is_no_port_is_an_error_of_the_socket(port: int) -> None:
    """Such as the port above 65535, where RTCP would go."""
    with pytest.raises(OSError, match="no UDP port"):
        pack_sockaddr(socket.AF_INET, ("127.0.0.1", port))
