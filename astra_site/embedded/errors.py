"""What can go wrong with the embedded servers, said to people."""


class EmbeddedError(Exception):
    """An embedded server cannot run; the message is a sentence that says why and what to do."""
