"""`astra.yml`: read, validated whole, every fault named with its file, line and key."""

from agents.config.faults import ConfigError, Fault
from agents.config.loading import Config, load_config
from agents.config.sections import Agent, Endpoint, Lane, Model

__all__ = ["Agent", "Config", "ConfigError", "Endpoint", "Fault", "Lane", "Model", "load_config"]
