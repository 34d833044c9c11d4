import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.latch import REBIND_SECONDS, Latch, LatchPolicy

SDP = ("192.0.2.10", 4000)
NAT = ("192.0.2.10", 61000)
SIGNALLING = "198.51.100.7"
STRANGER = ("203.0.113.99", 4000)


def test_starts_at_the_sdps_address() -> None:
    assert Latch(LatchPolicy.HOST, SDP).destination == SDP


def test_follows_another_port_of_the_same_host() -> None:
    latch = Latch(LatchPolicy.HOST, SDP)
    assert latch.accept(NAT, 0.0)
    assert latch.destination == NAT


def test_follows_the_signallings_host() -> None:
    latch = Latch(LatchPolicy.HOST, ("10.0.0.5", 4000), [SIGNALLING])
    assert latch.accept((SIGNALLING, 1234), 0.0)
    assert latch.destination == (SIGNALLING, 1234)


def test_host_policy_refuses_strangers() -> None:
    latch = Latch(LatchPolicy.HOST, SDP, [SIGNALLING])
    assert not latch.accept(STRANGER, 0.0)
    assert latch.destination == SDP
    assert latch.source is None


def test_any_policy_follows_the_first_and_only_the_first() -> None:
    latch = Latch(LatchPolicy.ANY, SDP)
    assert latch.accept(STRANGER, 0.0)
    assert latch.destination == STRANGER
    assert not latch.accept(SDP, 0.5)
    assert latch.destination == STRANGER


def test_off_policy_never_moves() -> None:
    latch = Latch(LatchPolicy.OFF, SDP)
    assert latch.accept(NAT, 0.0), "peers may receive on another port than they send from"
    assert latch.destination == SDP
    assert not latch.accept(STRANGER, 5.0)
    assert latch.destination == SDP


@pytest.mark.parametrize("policy", LatchPolicy)
def test_a_second_source_waits_for_the_firsts_silence(policy: LatchPolicy) -> None:
    latch = Latch(policy, SDP)
    assert latch.accept(SDP, 10.0)
    assert latch.accept(SDP, 10.9)
    assert not latch.accept(NAT, 10.9 + REBIND_SECONDS - 0.01)
    assert latch.accept(NAT, 10.9 + REBIND_SECONDS)
    assert latch.destination == (SDP if policy is LatchPolicy.OFF else NAT)
    assert not latch.accept(SDP, 12.0)


def test_refused_packets_do_not_keep_the_source_alive() -> None:
    latch = Latch(LatchPolicy.HOST, SDP)
    latch.accept(SDP, 0.0)
    for tick in range(1, 50):
        assert not latch.accept(STRANGER, tick / 10)
    assert latch.accept(NAT, 5.0)


@pytest.mark.parametrize("remote", [("0.0.0.0", 4000), ("::", 4000), ("192.0.2.10", 0), None])
def test_nowhere_to_send_until_latched(remote) -> None:
    latch = Latch(LatchPolicy.HOST, remote, ["192.0.2.10"])
    assert latch.destination is None
    assert latch.accept(NAT, 0.0)
    assert latch.destination == NAT


def test_an_unspecified_address_allows_nobody() -> None:
    assert not Latch(LatchPolicy.HOST, ("0.0.0.0", 4000)).accept(("0.0.0.0", 4000), 0.0)


def test_port_zero_still_allows_its_host() -> None:
    assert Latch(LatchPolicy.HOST, ("192.0.2.10", 0)).accept(NAT, 0.0)


@pytest.mark.parametrize(
    ("policy", "before", "after"),
    [
        (LatchPolicy.OFF, {SDP, NAT}, {SDP, NAT}),
        (LatchPolicy.HOST, {SDP, NAT}, {SDP, NAT}),
        (LatchPolicy.ANY, set(), {STRANGER}),
    ],
)
def test_reports_come_from_whom_the_policy_allows(policy: LatchPolicy, before: set, after: set) -> None:
    """Under ANY, from whom the audio comes, and from nobody before that is known."""
    latch = Latch(policy, SDP)
    known = (SDP, NAT, STRANGER)
    assert {source for source in known if latch.allows_report(source)} == before
    latch.accept(STRANGER, 0.0)
    assert {source for source in known if latch.allows_report(source)} == after
    assert latch.allows_report((STRANGER[0], 9)) == (STRANGER in after), "from another port than the audio"


def test_reports_do_not_latch() -> None:
    latch = Latch(LatchPolicy.ANY, SDP)
    latch.allows_report(STRANGER)
    latch.allows(STRANGER)
    assert (latch.source, latch.destination, latch.last_heard) == (None, SDP, 0.0)


def test_a_new_latch_knows_nobody() -> None:
    latch = Latch(LatchPolicy.HOST)
    assert latch.destination is latch.source is latch.source_key is None
    assert not latch.accept(SDP, 0.0)


def test_ipv6_in_any_spelling() -> None:
    latch = Latch(LatchPolicy.HOST, ("2001:DB8:0:0::1", 4000), ["2001:db8::00ff"])
    assert latch.destination == ("2001:db8::1", 4000)
    assert latch.accept(("2001:db8::ff", 9), 0.0)


@pytest.mark.parametrize("host", ["pbx.example.com", "", "300.1.1.1"])
def test_names_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be an IP"):
        Latch(LatchPolicy.HOST, (host, 4000))


hosts = st.sampled_from(["192.0.2.1", "192.0.2.2", "203.0.113.3"])
addresses = st.tuples(hosts, st.sampled_from([4000, 4002]))


@given(
    st.sampled_from(LatchPolicy),
    addresses,
    st.sets(hosts),
    st.lists(st.tuples(addresses, st.floats(0, 2)), max_size=30),
)
def test_whoever_sends_the_rules_hold(policy, remote, allowed, packets) -> None:
    latch = Latch(policy, remote, allowed)
    now, holder, last_heard = 100.0, None, 0.0
    for source, wait in packets:
        now += wait
        within = policy is LatchPolicy.ANY or source[0] in allowed | {remote[0]}
        free = holder is None or now - last_heard >= REBIND_SECONDS
        accepted = latch.accept(source, now)
        assert accepted == (source == holder or (within and free))
        if accepted:
            holder, last_heard = source, now
        expected = remote if policy is LatchPolicy.OFF or holder is None else holder
        assert latch.destination == expected
