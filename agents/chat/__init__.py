"""People chat with an agent: conversations, the replies that are written in them, and the sockets that show them."""
