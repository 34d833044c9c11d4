"""A call's audio on a WebSocket, both ways: compatible with Twilio Media Streams; docs/media-streams.md."""
