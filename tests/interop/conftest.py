from tests.interop.caller_speech import caller_speech
from tests.interop.media_servers import media_server, odd_server
from tests.interop.server import chatterline_server, server

__all__ = ["caller_speech", "chatterline_server", "media_server", "odd_server", "server"]
