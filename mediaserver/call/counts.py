"""What one call has counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mediaserver.call.leg import CallLeg


def leg_counts(leg: CallLeg) -> dict[str, int]:
    """What one call has counted so far."""
    sent, received, rtcp, dtmf = (
        leg.rtp.sending.counters,
        leg.rtp.receiving.counters,
        leg.rtp.rtcp,
        leg.rtp.receiving.dtmf,
    )
    inbound = leg.media.inbound
    speech, digits = leg.speech.counters, leg.digits.counters
    return {
        "rtp_packets_sent": sent.packets,
        "rtp_send_errors": sent.errors,
        "rtp_packets_received": received.packets,
        "rtp_packets_lost": max(0, leg.rtp.stats.lost),
        "rtp_strangers": received.strangers,
        "rtp_malformed": received.malformed,
        "rtp_oversized": received.oversized,
        "rtp_wrong_type": received.wrong_type,
        "rtp_overflowed": received.overflowed,
        "rtp_ssrc_collisions": received.collisions,
        "rtp_underruns": leg.playout.underruns,
        "rtp_underrun_frames": leg.playout.underrun_frames,
        "rtp_inbound_late": inbound.buffer.late,
        "rtp_inbound_concealed": inbound.concealed,
        "rtcp_received": received.rtcp,
        "rtcp_malformed": rtcp.malformed if rtcp is not None else 0,
        "rtcp_strangers": rtcp.strangers if rtcp is not None else 0,
        "rtcp_refused": received.rtcp_refused,
        "dtmf_malformed": dtmf.malformed + dtmf.unknown,
        "dtmf_too_fast": dtmf.too_fast,
        "dtmf_received": digits.received,
        "dtmf_sent": digits.sent,
        "dtmf_failed": digits.failed,
        "interruptions_speech": leg.interruptions.speech,
        "interruptions_digit": leg.interruptions.digit,
        "speech_utterances": speech.utterances,
        "speech_played": speech.played,
        "speech_cleared": speech.cleared,
        "speech_failed": speech.failed,
        "speech_unspeakable": speech.unspeakable,
        "speech_waited": speech.waited,
        "sounds_failed": speech.sounds_failed,
        "underruns_engine": speech.underruns_engine,
        "underruns_engine_busy": speech.underruns_engine_busy,
        "underruns_event_loop": speech.underruns_event_loop,
        "underruns_sound": speech.underruns_sound,
    }
