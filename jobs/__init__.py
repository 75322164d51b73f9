"""Durable background work on RQ: the database row is the truth, RQ is how a worker hears of it."""
