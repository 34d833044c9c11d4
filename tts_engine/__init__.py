"""Speech engines: text in, PCM out. Knows nothing of calls."""
