"""The programs that come with Astra. Importing this package registers them."""

from agents.programs import loop, publisher, refunds, research

__all__ = ["loop", "publisher", "refunds", "research"]
