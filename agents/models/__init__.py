"""What the registry loaded, what ran, what was said and what is remembered."""

from agents.models.chat import CLIENT_ID_LENGTH, Conversation, Message
from agents.models.declared import AgentVersion, ConfigLoad, Endpoint
from agents.models.effect import Effect
from agents.models.feedback import AgentNote, Feedback
from agents.models.memory import Memory
from agents.models.run import SEARCHED_INPUT, Run, Score, Step
from agents.models.run_stat import RunStat, RunStatCursor
from agents.models.shop import ShopOrder, ShopRefund

__all__ = [
    "CLIENT_ID_LENGTH",
    "SEARCHED_INPUT",
    "AgentNote",
    "AgentVersion",
    "ConfigLoad",
    "Conversation",
    "Effect",
    "Endpoint",
    "Feedback",
    "Memory",
    "Message",
    "Run",
    "RunStat",
    "RunStatCursor",
    "Score",
    "ShopOrder",
    "ShopRefund",
    "Step",
]
