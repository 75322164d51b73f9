"""People decide: requests, decisions, deadlines."""
