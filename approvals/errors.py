"""Why something cannot be done to a request. Pages say the detail, the API answers the problem."""

from __future__ import annotations

from accounts.problems import Problem


class Undecidable(Problem):
    """It cannot be decided so: the detail says what is missing or does not fit.

    Mend what the detail names and decide again. Nothing was changed.
    """

    slug, title, status = "undecidable", "It cannot be decided so", 422


class UnknownApproval(Problem):
    """There is no such request, or you may not see it.

    `GET /api/v1/approvals` lists those that you may decide on.
    """

    slug, title, status = "unknown-approval", "There is no such approval", 404


class AlreadyDecided(Problem):
    """Somebody else, or the deadline, was first.

    `GET /api/v1/approvals/{id}` says who decided what. Your decision changed nothing.
    """

    slug, title, status = "already-decided", "It is decided already", 409


class PlanChanged(Problem):
    """The plan is not the one that you looked at: its hash is another.

    Read the request again, then decide on its new `plan_hash`. Your decision changed nothing.
    """

    slug, title, status = "plan-changed", "The plan was changed", 409


class Claimed(Problem):
    """Somebody else is reading the request and has claimed it for the moment.

    Wait until the time that the detail names, or take the claim over. Your decision changed nothing.
    """

    slug, title, status = "claimed", "Somebody else is on it", 409


class MayNot(Problem):
    """The policy lets others decide on this request, not you.

    The detail names who may. They may also delegate it to you.
    """

    slug, title, status = "may-not-decide", "You may not decide on this", 403


class ListGivenUp(Problem):
    """Finding these took the database too long, so it was given up.

    Ask for those of one `state`, or for `mine`; then for the rest page by page.
    """

    slug, title, status = "list-given-up", "Finding these took too long", 503
