"""What `astra.yml` declared, as the database holds it: loaded here, read where runs are started and run."""

from agents.registry.loading import Change, LoadReport, load
from agents.registry.reading import CHAT_SLOTS, EndpointInfo, Registry, current, forget, fresh
from agents.registry.specs import capabilities, capability, spec, spec_for

__all__ = [
    "CHAT_SLOTS",
    "Change",
    "EndpointInfo",
    "LoadReport",
    "Registry",
    "capabilities",
    "capability",
    "current",
    "forget",
    "fresh",
    "load",
    "spec",
    "spec_for",
]
