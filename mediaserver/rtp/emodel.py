"""The E-model: conversational quality from delay and packet loss (ITU-T G.107, all other parameters at its defaults).

R is on the narrowband scale, on which a perfect G.711 call has 93.2.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, log10, sqrt

G711_IE = 0.0
"Equipment impairment of G.711 (ITU-T G.113 appendix I)."
G711_BPL = 4.3
"Packet-loss robustness of G.711 without concealment (ITU-T G.113 appendix I)."
G711_PLC_BPL = 25.1
"The same with the concealment of G.711 appendix I."

# Default values, ITU-T G.107 table 2.
_SLR, _RLR, _STMR = 8.0, 2.0, 15.0  # send, receive and side-tone loudness, dB
_TELR, _WEPL = 65.0, 110.0  # talker echo loudness, weighted echo path loss, dB
_DS, _DR = 3.0, 3.0  # D-factors of telephones
_PS, _PR = 35.0, 35.0  # room noise, dB(A)
_NC, _NFOR = -70.0, -64.0  # circuit noise, noise floor, dBm0p
_QDU = 1.0  # quantisation: one G.711 coding
_OLR = _SLR + _RLR

_MAX_DELAY_MS = 10_000.0


def _noise() -> float:
    """No: the power of all noise sources, dBm0p (equations 7-3 to 7-7)."""
    sending = _PS - _SLR - _DS - 100 + 0.004 * (_PS - _OLR - _DS - 14) ** 2
    room = _PR + 10 * log10(1 + 10 ** ((10 - (_STMR + _DR)) / 10))
    receiving = _RLR - 121 + room + 0.008 * (room - 35) ** 2
    floor = _NFOR + _RLR
    return 10 * log10(sum(10 ** (level / 10) for level in (_NC, sending, receiving, floor)))


def _loudness_impairment(noise: float) -> float:
    """Iolr: too loud a connection (equations 7-9 and 7-10)."""
    x = _OLR + 0.2 * (64 + noise - _RLR)
    return float(20 * ((1 + (x / 8) ** 8) ** (1 / 8) - x / 8))


def _quantising_impairment(ro: float) -> float:
    """Iq (equations 7-13 to 7-17)."""
    q = 37 - 15 * log10(_QDU)
    g = 1.07 + 0.258 * q + 0.0602 * q**2
    return 15 * log10(1 + 10 ** ((ro - 100) / 15 + 46 / 8.4 - g / 9) + 10 ** (46 / 30 - g / 40))


_NO = _noise()
_RO = 15 - 1.5 * (_SLR + _NO)
_IS_WITHOUT_SIDETONE = _loudness_impairment(_NO) + _quantising_impairment(_RO)


def _sidetone_impairment(delay_ms: float) -> float:
    """Ist: side tone and the talker's echo that adds to it (equations 7-11 and 7-12)."""
    stmr = -10 * log10(10 ** (-_STMR / 10) + exp(-delay_ms / 4) * 10 ** (-_TELR / 10))
    return float(
        12 * (1 + ((stmr - 13) / 6) ** 8) ** (1 / 8)
        - 28 * (1 + ((stmr + 1) / 19.4) ** 35) ** (1 / 35)
        - 13 * (1 + ((stmr - 3) / 33) ** 13) ** (1 / 13)
        + 29
    )


def _talker_echo_impairment(delay_ms: float) -> float:
    """Idte (equations 7-19 to 7-22)."""
    terv = _TELR - 40 * log10((1 + delay_ms / 10) / (1 + delay_ms / 150)) + 6 * exp(-0.3 * delay_ms * delay_ms)
    difference = -1.5 * (_NO - _RLR) - (80 + 2.5 * (terv - 14))
    return (difference / 2 + sqrt(difference * difference / 4 + 100) - 1) * (1 - exp(-delay_ms))


def _listener_echo_impairment(delay_ms: float) -> float:
    """Idle (equations 7-25 and 7-26): the round trip is twice the delay."""
    difference = _RO - 10.5 * (_WEPL + 7) * (2 * delay_ms + 1) ** -0.25
    return float(difference / 2 + sqrt(difference**2 / 4 + 169))


def _long_delay_impairment(delay_ms: float) -> float:
    """Idd (equations 7-27 and 7-28): hard to converse even without echo."""
    if delay_ms <= 100:
        return 0.0
    x = log10(delay_ms / 100) / log10(2)
    return float(25 * ((1 + x**6) ** (1 / 6) - 3 * (1 + (x / 3) ** 6) ** (1 / 6) + 2))


def r_factor(
    delay_ms: float, loss: float, *, burst_ratio: float = 1.0, ie: float = G711_IE, bpl: float = G711_PLC_BPL
) -> float:
    """The rating R, 0 to 93.2.

    `delay_ms` is one way from mouth to ear, taken to the millisecond; `loss` the share of packets not played, 0 to
    1; `burst_ratio` (BurstR) the mean length of runs of lost packets over that which random loss of the same rate
    would give, 1 or more. Values out of range are taken at their bounds.
    """
    percent = 100 * min(max(loss, 0.0), 1.0)
    equipment = ie + (95 - ie) * percent / (percent / max(burst_ratio, 1.0) + bpl)  # Ie-eff, equation 7-29
    return max(0.0, _lossless(round(min(max(delay_ms, 0.0), _MAX_DELAY_MS))) - equipment)


@lru_cache(maxsize=1024)
def _lossless(delay_ms: int) -> float:
    """Ro - Is - Id: R of a call that loses nothing. Calls share their few delays."""
    simultaneous = _IS_WITHOUT_SIDETONE + _sidetone_impairment(delay_ms)
    delayed = _talker_echo_impairment(delay_ms) + _listener_echo_impairment(delay_ms) + _long_delay_impairment(delay_ms)
    return _RO - simultaneous - delayed


def mos(r: float) -> float:
    """The mean opinion score, 1 to 4.5, that belongs to R (ITU-T G.107 annex B)."""
    if r <= 0:
        return 1.0
    if r >= 100:
        return 4.5
    return max(1.0, 1 + 0.035 * r + r * (r - 60) * (100 - r) * 7e-6)  # the cubic dips below 1 under R = 6.5
