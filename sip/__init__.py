"""An RFC 3261 user agent on asyncio. Knows nothing of audio or of speech synthesis."""
