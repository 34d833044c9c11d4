"""RTP for telephony: packets, sessions, playout and the pacer. Knows nothing of SIP or of speech synthesis."""
