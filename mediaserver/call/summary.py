"""One call at one moment, and what is told of it at its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mediaserver.call.counts import leg_counts
from mediaserver.call.quality import quality_fields
from mediaserver.call.view import CallView

if TYPE_CHECKING:
    from mediaserver.call.leg import CallLeg


def view_of(leg: CallLeg) -> CallView:
    """The call as it is now."""
    profile, media, times = leg.profile, leg.media.format, leg.times
    return CallView(
        id=leg.id,
        sip_call_id=profile.sip_call_id,
        direction=profile.direction,
        state=leg.state,
        from_uri=profile.from_uri,
        to_uri=profile.to_uri,
        trunk=profile.trunk,
        started_at=times.started_at,
        answered_at=times.answered_at,
        ended_at=times.ended_at,
        end_reason=leg.end_reason.value if leg.over and leg.end_reason is not None else None,
        codec=media.codec.name if media is not None else None,
        engine=leg.engine.engine.name,
        voice=leg.speech.voice,
        held_by_us=leg.peer.holds,
        agent_url=profile.agent_url,
        speech=() if leg.over else leg.speech.views(),
        quality=quality_fields(leg.media.quality()),
        counts=leg_counts(leg),
        first_audio_ms=leg.speech.first_audio_ms,
        parameters=dict(profile.parameters),
    )


def tell_end(leg: CallLeg) -> None:
    """The log line and the event of a call that is over."""
    view, speech = view_of(leg), leg.speech.counters
    counts, seconds = view.counts, round(time.monotonic() - leg.times.began, 3)
    leg.log.info(
        "call_ended",
        reason=view.end_reason,
        status=leg.failed_code,
        seconds=seconds,
        utterances=speech.utterances,
        played=speech.played,
        cleared=speech.cleared,
        failed=speech.failed,
        unspeakable=speech.unspeakable,
        waited=speech.waited,
        interruptions=leg.interruptions.speech + leg.interruptions.digit,
        digits_received=counts["dtmf_received"],
        digits_sent=counts["dtmf_sent"],
        packets_sent=counts["rtp_packets_sent"],
        underruns=counts["rtp_underruns"],
        packets_received=counts["rtp_packets_received"],
        strangers=counts["rtp_strangers"],
        **view.quality,
    )
    leg.reporter.publish(
        "call.ended",
        reason=view.end_reason,
        status=leg.failed_code,
        seconds=seconds,
        quality=view.quality,
        counts=counts,
        first_audio_ms=view.first_audio_ms,
    )
