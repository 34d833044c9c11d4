"""Digest authentication: the published examples, what may be answered, and lines that strangers write."""

from __future__ import annotations

import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sipmessage import Response

from sip.digest import (
    MAX_CHALLENGES,
    MAX_LINE_CHARS,
    MAX_NONCES,
    Challenge,
    Credentials,
    DigestClient,
    DigestExchange,
    authorization,
    parse_challenges,
)

MUFASA = Credentials("Mufasa", "Circle of Life")
RFC_7616_CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
RFC_7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)


def refusal(code: int, *challenges: str) -> Response:
    response = Response(code, "Unauthorized")
    for challenge in challenges:
        response.headers.add("WWW-Authenticate" if code == 401 else "Proxy-Authenticate", challenge)
    return response


def exchange() -> DigestExchange:
    return DigestExchange(DigestClient(MUFASA, lambda: "c"))


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_example_of_rfc_7616(algorithm: str, expected: str) -> None:
    """Section 3.9.1."""
    (challenge,) = parse_challenges([RFC_7616.format(algorithm)])
    value = authorization(challenge, MUFASA, "GET", "/dir/index.html", cnonce=RFC_7616_CNONCE, count=1)
    assert f'response="{expected}"' in value
    assert "nc=00000001" in value
    assert "qop=auth," in value
    assert f"algorithm={algorithm}" in value
    assert 'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"' in value


def test_the_example_of_rfc_2617() -> None:
    """Section 3.5: with qop; and no algorithm is written where none was."""
    line = 'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"'
    (challenge,) = parse_challenges([line])
    value = authorization(
        challenge, Credentials("Mufasa", "Circle Of Life"), "GET", "/dir/index.html", cnonce="0a4f113b", count=1
    )
    assert 'response="6629fae49393a05397450978507c4ef1"' in value
    assert "algorithm" not in value
    assert "opaque" not in value


def test_without_qop_it_is_that_of_rfc_2069() -> None:
    """Asterisk's chan_sip and many carriers ask for no more."""
    (challenge,) = parse_challenges(['Digest algorithm=MD5, realm="asterisk", nonce="1a2b"'])
    value = authorization(challenge, Credentials("u", "p"), "INVITE", "sip:b@x", cnonce="unused", count=7)

    def md5(text: str) -> str:
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

    assert f'response="{md5(":".join((md5("u:asterisk:p"), "1a2b", md5("INVITE:sip:b@x"))))}"' in value
    assert "nc=" not in value
    assert "cnonce" not in value


def test_quotes_in_a_user_name_are_escaped() -> None:
    value = authorization(Challenge("r", "n"), Credentials('a"b\\c', "p"), "BYE", "sip:x", cnonce="c", count=1)
    assert r'username="a\"b\\c"' in value


def test_escapes_of_a_realm_are_repeated_as_they_came() -> None:
    (challenge,) = parse_challenges([r'Digest realm="a \"b\", c", nonce="n"'])
    assert challenge.realm == r"a \"b\", c"
    assert r'realm="a \"b\", c"' in authorization(challenge, MUFASA, "BYE", "sip:x", cnonce="c", count=1)


def test_the_password_is_not_shown() -> None:
    assert "Circle" not in repr(MUFASA)


@pytest.mark.parametrize("name", ["", "a\r\nX: y", "a\x00"])
def test_user_names_that_no_header_carries(name: str) -> None:
    with pytest.raises(ValueError, match="user name"):
        Credentials(name, "p")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Digest",
        "Basic realm=x",
        'Digest realm="r"',
        'Digest nonce="n"',
        'Digest realm="r", nonce=""',
        'Digest realm="r", nonce="n", algorithm=SHA-512-256',
        'Digest realm="r", nonce="n", qop="auth-int"',
        'realm="r", nonce="n"',
        'Digest realm="r, nonce="n"',
        'Digest realm="r" nonce="n',
        "Digest " + 'realm="r", nonce="n", ' + "x" * MAX_LINE_CHARS,
        "\x00\xff",
    ],
)
def test_what_cannot_be_answered_is_left_out(line: str) -> None:
    assert parse_challenges([line]) == []


def test_names_and_values_in_any_case_and_spacing() -> None:
    (challenge,) = parse_challenges(['dIgEsT  REALM = "r" ,,nonce="n",STALE=TRUE, Qop=auth, Algorithm=md5,'])
    assert challenge == Challenge("r", "n", None, "md5", qop=True, stale=True)


def test_several_challenges_in_one_line_and_in_several() -> None:
    found = parse_challenges(
        [
            'Basic realm="b", Digest realm="one", nonce="1", algorithm=SHA-256, Digest realm="two", nonce="2"',
            'Digest realm="three", nonce="3"',
        ]
    )
    assert [challenge.realm for challenge in found] == ["one", "two", "three"]


def test_challenges_are_bounded() -> None:
    assert len(parse_challenges(['Digest realm="r", nonce="n"'] * 100)) == MAX_CHALLENGES


def test_hostile_lines_take_no_time() -> None:
    half = MAX_LINE_CHARS // 2
    begun = time.process_time()
    for line in ("a " * half, "Digest " + 'a="' + "\\" * half, "Digest " + "a=" * (half - 8), "Digest " + " ," * 2000):
        parse_challenges([line] * 20)
    assert time.process_time() - begun < 1.0


@given(st.lists(st.text(max_size=200), max_size=4))
def test_anything_can_be_given(lines: list[str]) -> None:
    parse_challenges(lines)


@given(st.text(alphabet='Digest realm="nonce,qop\\auth =x', max_size=120))
def test_anything_that_looks_like_one(text: str) -> None:
    for challenge in parse_challenges(["Digest " + text]):
        value = authorization(challenge, MUFASA, "INVITE", "sip:x", cnonce="c", count=1)
        assert "\r" not in value
        assert "\n" not in value


_QUOTED = st.text(st.characters(codec="utf-8", exclude_characters='"\\\r\n'), min_size=1, max_size=30)


@given(realm=_QUOTED, nonce=_QUOTED, opaque=st.none() | _QUOTED, qop=st.booleans(), stale=st.booleans())
def test_what_is_written_is_read(realm: str, nonce: str, opaque: str | None, qop: bool, stale: bool) -> None:
    line = f'Digest realm="{realm}", nonce="{nonce}"'
    line += f', opaque="{opaque}"' if opaque is not None else ""
    line += ', qop="auth-int,auth"' if qop else ""
    line += ", stale=true" if stale else ""
    assert parse_challenges([line]) == [Challenge(realm, nonce, opaque, None, qop, stale)]


def test_a_challenge_is_answered() -> None:
    request = exchange()
    assert request.headers("INVITE", "sip:x") == ()
    assert request.challenged(refusal(401, 'Digest realm="r", nonce="n", qop="auth"'))
    ((name, value),) = request.headers("INVITE", "sip:x")
    assert name == "Authorization"
    assert 'uri="sip:x"' in value


def test_a_proxys_challenge_has_its_own_header() -> None:
    request = exchange()
    assert request.challenged(refusal(407, 'Digest realm="r", nonce="n"'))
    assert [name for name, _ in request.headers("INVITE", "sip:x")] == ["Proxy-Authorization"]


def test_a_proxy_and_the_end_may_both_ask() -> None:
    request = exchange()
    assert request.challenged(refusal(407, 'Digest realm="proxy", nonce="p", qop=auth'))
    first = request.headers("INVITE", "sip:x")
    assert "nc=00000001" in first[0][1]
    assert request.challenged(refusal(401, 'Digest realm="end", nonce="e", qop=auth'))
    (_, proxys), (_, ends) = request.headers("INVITE", "sip:x")
    assert "nc=00000002" in proxys
    assert "nc=00000001" in ends


def test_refused_credentials_are_not_tried_again() -> None:
    """RFC 3261 section 22.1; whether the nonce is the same or, as some servers do, another."""
    for nonce in ("n", "other"):
        request = exchange()
        assert request.challenged(refusal(401, 'Digest realm="r", nonce="n"'))
        assert not request.challenged(refusal(401, f'Digest realm="r", nonce="{nonce}"'))


def test_a_stale_nonce_is_replaced_once_it_is_new() -> None:
    request = exchange()
    assert request.challenged(refusal(401, 'Digest realm="r", nonce="old"'))
    assert not exchange_again(request, "old")
    assert exchange_again(request, "new")
    ((_, value),) = request.headers("INVITE", "sip:x")
    assert 'nonce="new"' in value
    assert not exchange_again(request, "new")


def exchange_again(request: DigestExchange, nonce: str) -> bool:
    return request.challenged(refusal(401, f'Digest realm="r", nonce="{nonce}", stale=true'))


def test_a_server_for_which_every_nonce_is_stale_does_not_go_on_for_ever() -> None:
    request = exchange()
    assert sum(exchange_again(request, f"n{number}") for number in range(50)) <= 4


def test_the_servers_favourite_of_a_realm_is_taken() -> None:
    """RFC 8760 section 2.4: the topmost that we can."""
    request = exchange()
    lines = [f'Digest realm="r", nonce="n", algorithm={name}' for name in ("SHA-512-256", "SHA-256", "MD5")]
    assert request.challenged(refusal(401, *lines))
    ((_, value),) = request.headers("INVITE", "sip:x")
    assert "algorithm=SHA-256" in value


@pytest.mark.parametrize("code", [400, 403, 486, 500])
def test_other_refusals_are_no_challenges(code: int) -> None:
    response = refusal(401, 'Digest realm="r", nonce="n"')
    response.code = code
    assert not exchange().challenged(response)


def test_a_refusal_without_a_challenge() -> None:
    assert not exchange().challenged(refusal(401))
    assert not exchange().challenged(refusal(401, "Basic realm=x"))


def test_a_nonce_is_counted_over_requests() -> None:
    """A strict server refuses a count that it has seen."""
    client = DigestClient(MUFASA, lambda: "c")
    challenge = Challenge("r", "n", qop=True)
    values = [client.answer(challenge, "BYE", "sip:x") for _ in range(3)]
    assert [f"nc=0000000{number}" in value for number, value in enumerate(values, 1)] == [True] * 3


def test_counts_are_bounded_and_the_latest_is_kept() -> None:
    client = DigestClient(MUFASA, lambda: "c")
    steady = Challenge("r", "steady", qop=True)
    for number in range(5 * MAX_NONCES):
        client.answer(steady, "BYE", "sip:x")
        client.answer(Challenge("r", f"n{number}", qop=True), "BYE", "sip:x")
    assert f"nc={5 * MAX_NONCES + 1:08x}" in client.answer(steady, "BYE", "sip:x")


def test_cnonces_differ() -> None:
    client = DigestClient(MUFASA)
    challenge = Challenge("r", "n", qop=True)
    one, two = (client.answer(challenge, "BYE", "sip:x").partition("cnonce=")[2] for _ in range(2))
    assert one != two
