"""Measures Astra next to plain RQ and Celery, on the same machine and the same Valkey, in one run."""
