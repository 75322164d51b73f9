"""What people are asked, who looked at it, what they said, and how they were told."""

from approvals.models.approval import Approval, Viewing, Vote
from approvals.models.link import DecisionLink, HookCall
from approvals.models.review import Review

__all__ = ["Approval", "DecisionLink", "HookCall", "Review", "Viewing", "Vote"]
