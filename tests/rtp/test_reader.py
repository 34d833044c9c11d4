import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.reader import (
    SLOT_BYTES,
    SLOTS,
    DatagramReader,
    enable_stamps,
    pack_source,
    unpack_source,
)


def bound(host: str = "127.0.0.1", *, stamped: bool = True) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    if stamped:
        enable_stamps(sock)
    try:
        sock.bind((host, 0))
    except OSError:
        sock.close()
        pytest.skip(f"no {host} on this machine")
    return sock


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """One that is read, and one that sends."""
    with bound(request.param) as ours, bound(request.param) as theirs:
        yield ours, theirs


def test_nothing_there_is_an_empty_list(pair) -> None:
    ours, _ = pair
    assert DatagramReader(ours.family).read(ours.fileno()) == []


def test_datagrams_come_whole_in_order_with_source_and_time(pair) -> None:
    ours, theirs = pair
    reader = DatagramReader(ours.family)
    sent = [b"", b"a\0b", bytes(range(256)) * 7, b"x" * (SLOT_BYTES - 1)]
    before = time.monotonic()
    for datagram in sent:
        theirs.sendto(datagram, ours.getsockname())
    after = time.monotonic()
    got = reader.read(ours.fileno())
    assert [data for data, _, _ in got] == sent
    assert {unpack_source(source) for _, source, _ in got} == {theirs.getsockname()[:2]}
    arrivals = [arrival for _, _, arrival in got]
    assert arrivals == sorted(arrivals)
    assert before - 0.02 < arrivals[0] <= arrivals[-1] < after + 0.02, "stamped when they came, not when they are read"
    assert reader.read(ours.fileno()) == []


def test_the_arena_is_used_again_without_a_trace(pair) -> None:
    ours, theirs = pair
    reader = DatagramReader(ours.family)
    for round_ in range(5):
        sent = [bytes([round_, n]) * (400 - 70 * round_ + n) for n in range(20 - 4 * round_)]
        for datagram in sent:
            theirs.sendto(datagram, ours.getsockname())
        got = reader.read(ours.fileno())
        assert [data for data, _, _ in got] == sent
        assert all(unpack_source(source) == theirs.getsockname()[:2] for _, source, _ in got)
        assert all(time.monotonic() - 1 < arrival < time.monotonic() + 0.01 for _, _, arrival in got)


def test_a_read_takes_so_many_and_leaves_the_rest(pair) -> None:
    ours, theirs = pair
    reader = DatagramReader(ours.family)
    for n in range(SLOTS + 3):
        theirs.sendto(n.to_bytes(2, "big"), ours.getsockname())
    first, second = reader.read(ours.fileno()), reader.read(ours.fileno())
    assert (len(first), len(second)) == (SLOTS, 3)
    assert [int.from_bytes(data, "big") for data, _, _ in first + second] == list(range(SLOTS + 3))


def test_what_is_too_long_is_cut_off(pair) -> None:
    ours, theirs = pair
    reader = DatagramReader(ours.family)
    theirs.sendto(b"y" * 9000, ours.getsockname())
    theirs.sendto(b"short", ours.getsockname())
    assert [data for data, _, _ in reader.read(ours.fileno())] == [b"y" * SLOT_BYTES, b"short"]


def test_one_reader_serves_many_sockets(pair) -> None:
    ours, theirs = pair
    reader = DatagramReader(ours.family)
    theirs.sendto(b"one", ours.getsockname())
    ours.sendto(b"two", theirs.getsockname())
    assert reader.read(theirs.fileno())[0][:2] == (b"two", pack_source(ours.getsockname()[:2]))
    assert reader.read(ours.fileno())[0][:2] == (b"one", pack_source(theirs.getsockname()[:2]))


def test_sources_are_told_apart_by_port_and_host() -> None:
    with bound() as ours, bound() as one, bound() as two, bound("127.0.0.2") as three:
        for sock in (one, two, three, one):
            sock.sendto(b"x", ours.getsockname())
        sources = [source for _, source, _ in DatagramReader(socket.AF_INET).read(ours.fileno())]
        assert len(set(sources)) == 3
        assert sources[0] == sources[3]


def test_a_socket_without_stamps_is_read_too() -> None:
    """What came before they were enabled: its arrival is when it is read."""
    with bound(stamped=False) as ours, bound() as theirs:
        reader = DatagramReader(socket.AF_INET, clock=lambda: 1234.5)
        theirs.sendto(b"x", ours.getsockname())
        ((data, _, arrival),) = reader.read(ours.fileno())
        assert (data, arrival) == (b"x", 1234.5)


def test_a_bad_descriptor_reads_nothing() -> None:
    sock = bound()
    descriptor = sock.fileno()
    sock.close()
    assert DatagramReader(socket.AF_INET).read(descriptor) == []


def test_what_the_kernel_had_no_room_for_is_told(pair) -> None:
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel's least
    reader = DatagramReader(ours.family)
    sent = 100
    for n in range(sent):
        theirs.sendto(n.to_bytes(2, "big") * 200, ours.getsockname())
    kept = reader.read(ours.fileno())
    assert reader.dropped == 0, "nothing had been dropped when these were taken in"
    assert 0 < len(kept) < SLOTS
    theirs.sendto(b"after", ours.getsockname())
    ((data, source, arrival),) = reader.read(ours.fileno())
    assert (data, unpack_source(source)) == (b"after", theirs.getsockname()[:2])
    assert reader.dropped == sent - len(kept)
    assert abs(arrival - time.monotonic()) < 1
    theirs.sendto(b"again", ours.getsockname())
    reader.read(ours.fileno())
    assert reader.dropped == sent - len(kept), "since the socket was opened"


class TestClocks:
    def arrival(self, reader: DatagramReader, wall: float, monkeypatch: pytest.MonkeyPatch) -> float:
        with bound() as ours, bound() as theirs:
            monkeypatch.undo()
            theirs.sendto(b"x", ours.getsockname())
            ((_, _, arrival),) = reader.read(ours.fileno())
            return arrival - wall

    def test_stamps_are_on_the_clock_that_was_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        origin = time.time() - 100
        reader = DatagramReader(socket.AF_INET, clock=lambda: time.time() - origin)
        assert self.arrival(reader, time.time(), monkeypatch) == pytest.approx(-origin, abs=1)

    def test_a_step_of_the_wall_clock_is_followed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By an hour: when the clock of a machine is set."""
        real = time.time
        monkeypatch.setattr("mediaserver.rtp.reader.time.time", lambda: real() + 3600)
        reader = DatagramReader(socket.AF_INET)
        monkeypatch.undo()
        offset = time.monotonic() - time.time()
        assert self.arrival(reader, time.time(), monkeypatch) == pytest.approx(offset - 3600, abs=1)
        reader.synchronise()
        assert self.arrival(reader, time.time(), monkeypatch) == pytest.approx(offset, abs=1)

    def test_a_look_that_was_interrupted_is_taken_again(self) -> None:
        """Another thread ran between the two clocks: the offset would be wrong by that, and so every arrival."""
        steps = iter([0.0, 5.0, 10.0, 10.0])
        reader = DatagramReader(socket.AF_INET, clock=lambda: next(steps))
        assert reader._offset == pytest.approx(time.time() - 10, abs=1)
        assert next(steps, None) is None

    def test_looks_end(self) -> None:
        """A clock that is always late, as on a machine that stands still, is believed in the end."""
        ticks = iter(range(1000))
        DatagramReader(socket.AF_INET, clock=lambda: float(next(ticks)))
        assert next(ticks) < 20


hosts = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None).map(str)


@given(hosts, st.integers(0, 65535))
def test_sources_survive_packing(host: str, port: int) -> None:
    source = pack_source((host, port))
    again = unpack_source(source)
    assert pack_source(again) == source
    assert again[1] == port
    if ":" not in host:
        assert again == (host, port)


@pytest.mark.parametrize("host", ["localhost", "", "1.2.3", "300.1.1.1", "2001:db8::g"])
def test_names_are_no_sources(host: str) -> None:
    with pytest.raises(OSError, match="illegal IP address"):
        pack_source((host, 5060))
