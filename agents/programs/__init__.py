"""The programs that come with Astra. Importing this package registers them."""

from agents.programs import loop, research

__all__ = ["loop", "research"]
