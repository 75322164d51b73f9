"""The programs that come with Astra. Importing this package registers them."""

from agents.programs import loop

__all__ = ["loop"]
