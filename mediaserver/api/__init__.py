"""Control of calls over HTTP and WebSocket: what applications, agents and people use."""
