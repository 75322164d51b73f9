"""The append-only trail of what people did."""
