"""Applications that speak on calls over a WebSocket, with the messages of Twilio's ConversationRelay."""
