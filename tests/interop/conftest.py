from tests.interop.server import chatterline_server, server

__all__ = ["chatterline_server", "server"]
