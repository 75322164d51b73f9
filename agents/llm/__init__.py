"""The way to models: which one a name means, what it costs, the port over providers, and a demo model of our own.

Only `agents.llm.port` and the modules it loads on the first request touch a provider's library.
"""
