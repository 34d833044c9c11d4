import itertools

import pytest

from tests.rtp.network import Impairment, Network, Sender, Sent, packets_of, transmit


def deliver(impairment: Impairment, packets: int = 5000, seed: int = 3) -> list[tuple[float, int]]:
    network: Network[int] = Network(impairment, seed)
    for number in range(packets):
        network.send(number, number * 0.02)
    return list(network.receive(1e9))


def test_a_perfect_network_only_delays() -> None:
    assert deliver(Impairment(delay=0.03), 3) == [(0.03, 0), (0.05, 1), (0.07, 2)]


def test_nothing_arrives_before_its_time_nor_twice() -> None:
    network: Network[str] = Network(Impairment(delay=0.03))
    network.send("a", 1.0)
    assert list(network.receive(1.02)) == []
    assert [data for _, data in network.receive(1.04)] == ["a"]
    assert list(network.receive(2)) == []


@pytest.mark.parametrize("burst", [1, 4])
def test_loss(burst: float) -> None:
    numbers = [number for _, number in deliver(Impairment(loss=0.05, burst=burst))]
    assert 5000 - len(numbers) == pytest.approx(250, rel=0.35)
    gaps = [after - before - 1 for before, after in itertools.pairwise(numbers) if after > before + 1]
    assert sum(gaps) / len(gaps) == pytest.approx(burst, rel=0.3)


def test_jitter_has_its_deviation_and_reorders_unless_told_not_to() -> None:
    arrivals = deliver(Impairment(delay=0.1, jitter=0.02))
    delays = [arrival - 0.02 * number for arrival, number in arrivals]
    mean = sum(delays) / len(delays)
    assert (sum((delay - mean) ** 2 for delay in delays) / len(delays)) ** 0.5 == pytest.approx(0.02, rel=0.05)
    assert [number for _, number in arrivals] != sorted(number for _, number in arrivals)
    in_order = [number for _, number in deliver(Impairment(delay=0.1, jitter=0.02, in_order=True))]
    assert in_order == sorted(in_order)


def test_duplicates_and_reordering_are_counted() -> None:
    network: Network[int] = Network(Impairment(duplicate=0.1, reorder=0.1))
    for number in range(1000):
        network.send(number, number * 0.02)
    arrived = [number for _, number in network.receive(1e9)]
    assert len(arrived) == 1000 + network.duplicated
    assert 60 < network.duplicated < 140
    assert 60 < network.reordered < 140
    assert arrived != sorted(arrived)


def test_equal_seeds_give_equal_networks() -> None:
    impairment = Impairment(loss=0.1, jitter=0.01, duplicate=0.1)
    assert deliver(impairment, 200) == deliver(impairment, 200)
    assert deliver(impairment, 200) != deliver(impairment, 200, seed=4)


def test_a_sender_wraps_round_and_drifts() -> None:
    sender = Sender(sequence=65535, timestamp=2**32 - 160, drift_ppm=200)
    assert sender.send(b"x" * 160) == Sent(65535, 2**32 - 160, b"x" * 160)
    assert sender.send(b"x" * 160)[:2] == (0, 0)
    assert sender.at == pytest.approx(0.04 * (1 - 200e-6), abs=1e-8)
    sender.pause(1)
    assert (sender.sequence, sender.timestamp) == (1, 8160)


def test_transmit_reads_then_plays_at_each_tick() -> None:
    happened: list[object] = []
    network: Network[Sent] = Network(Impairment(delay=0.01))
    transmit(
        packets_of(b"a" * 400, 20),
        network,
        Sender(sequence=0),
        lambda sequence, timestamp, payload: happened.append((sequence, len(payload))),
        lambda now: happened.append(round(now, 3)),
        linger=0.03,
    )
    assert happened == [0.007, (0, 160), 0.027, (1, 160), 0.047, (2, 80), 0.067]
