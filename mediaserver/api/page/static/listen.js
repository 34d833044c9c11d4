// Hearing a call: WS /v1/calls/{id}/media, mu-law at 8 kHz, into Web Audio.

import { openSocket } from "./api.js";
import { decode, level } from "./mulaw.js";

const RATE = 8000;
const AHEAD_S = 0.12; // against jitter of the network and of this page
const MOST_AHEAD_S = 0.6; // behind the call by more, and audio is left out

/** Plays one direction without gaps: each piece begins where the last one ends. */
class Track {
  constructor(context) {
    this.context = context;
    this.next = 0;
  }

  play(samples) {
    const now = this.context.currentTime;
    if (this.next < now) this.next = now + AHEAD_S;
    if (this.next > now + MOST_AHEAD_S) return;
    const buffer = this.context.createBuffer(1, samples.length, RATE);
    buffer.copyToChannel(samples, 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    source.start(this.next);
    this.next += samples.length / RATE;
  }
}

export class Listening {
  /** Must be made in the handler of a click or key: browsers let nothing sound otherwise. */
  constructor(onLevel, onEnd) {
    this.onLevel = onLevel;
    this.onEnd = onEnd;
    this.call = null;
    this.heard = 0; // pieces of audio
    this.tracks = {};
    this.context = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
    this.context.resume();
  }

  /** Hear a call, answered or about to be. */
  start(call) {
    this.call = call;
    this.tracks = { inbound: new Track(this.context), outbound: new Track(this.context) };
    this.socket = openSocket(`/v1/calls/${encodeURIComponent(call)}/media?tracks=both`);
    this.socket.onmessage = (message) => this.take(JSON.parse(message.data));
    this.socket.onclose = (event) => this.stop(event.reason || (this.heard ? "The call has ended." : "No audio came."));
  }

  take(message) {
    if (message.event !== "media") return;
    const track = this.tracks[message.media.track];
    if (!track) return;
    const samples = decode(message.media.payload);
    this.heard += 1;
    track.play(samples);
    this.onLevel(message.media.track, level(samples));
  }

  /** Idempotent. */
  stop(why = "") {
    if (this.over) return;
    this.over = true;
    if (this.socket) this.socket.close();
    this.context.close();
    this.onEnd(why);
  }
}
