"""The peers: tasks and clients that run in an environment of their own, without Django and without Astra."""
