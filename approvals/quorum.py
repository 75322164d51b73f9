"""How many must agree, how many can, and whose votes count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib.auth.models import User

from approvals.locking import named, why_not
from approvals.models import Approval, Vote
from approvals.models.approval import Person, groups_of
from approvals.terms import Demand, everybody, together
from jobs import script
from jobs.script import Script

#: Votes for a plan; any vote against it decides at once.
IN_FAVOUR = ("approve", "approve_with_changes")


def kept(demands: Sequence[Demand]) -> list[dict[str, Any]]:
    """Return demands as a request keeps them: of a single one its groups, users and quorum say all."""
    return [demand.as_json() for demand in demands] if len(demands) > 1 else []


def demands_of(approval: Approval) -> tuple[Demand, ...]:
    """Return what must be met before a request is approved."""
    if not approval.demands:
        return (Demand(tuple(approval.groups), tuple(approval.users), approval.quorum),)
    return tuple(
        Demand(tuple(demand["groups"]), tuple(demand["users"]), demand["quorum"]) for demand in approval.demands
    )


def demand(approval: Approval, demands: Sequence[Demand]) -> None:
    """Put other demands on a request, and name all of their people as those who may decide. It is not saved."""
    demands = together(demands)
    approval.demands = kept(demands)
    approval.groups = list(everybody(demand.groups for demand in demands))
    approval.users = list(everybody(demand.users for demand in demands))
    approval.quorum = max(demand.quorum for demand in demands)


def is_of(demand: Demand, user: Person) -> bool:
    """Tell whether a person is one of those of a demand."""
    return user.get_username() in demand.users or bool(groups_of(user) & set(demand.groups))


def missing(approval: Approval, votes: Sequence[Vote]) -> int:
    """Return how many more must agree, at least, if these votes count: as many as one of the demands lacks at most."""
    if not approval.demands:
        return max(0, approval.quorum - len({principal(approval, vote.user_name) for vote in votes}))
    voters = [vote.user for vote in votes if vote.user is not None]
    return max(0, *(one.quorum - len(_standing_for(approval, one, voters)) for one in demands_of(approval)))


def _standing_for(approval: Approval, demand: Demand, voters: Sequence[User]) -> set[str]:
    return {principal(approval, voter.username) for voter in voters if is_of(demand, voter)}


def principal(approval: Approval, name: str) -> str:
    """Return in whose place somebody decides: their own, unless it was delegated to them. Both have one vote."""
    seen = {name}
    while (giver := approval.delegated.get(name)) is not None and giver not in seen:
        seen.add(giver)
        name = giver
    return name


def in_words(demands: Sequence[Demand]) -> str:
    """Say who must agree: "2 of the group finance, and the group board".

    Where the people of one demand are among those of another, they count for both: "2 of the group reviewer or the
    group operator, among them 1 of the group reviewer".
    """
    # What a demand of fewer people meets by itself need not be said.
    needed = [one for one in demands if not any(_is_among(other, one, other.quorum) for other in demands)]
    outer = [one for one in needed if not any(_is_among(one, other) for other in needed)]
    said: dict[int, str] = {place: _people(one) for place, one in enumerate(outer)}
    for one in needed:
        place = next((place for place, other in enumerate(outer) if _is_among(one, other)), None)
        if place is not None:
            who = (
                named(one.groups, one.users)
                if len((*one.groups, *one.users)) == 1 and one.users
                else f"{one.quorum} of {named(one.groups, one.users)}"
            )
            said[place] += f", among them {who}"
    return ("; and " if len(needed) > len(outer) else ", and ").join(said.values())


def _is_among(demand: Demand, other: Demand, quorum: int | None = None) -> bool:
    """Tell whether a demand's people are some of another's, and not all; and no fewer than it demands must agree."""
    mine, theirs = (
        {(True, name) for name in one.groups} | {(False, name) for name in one.users} for one in (demand, other)
    )
    return mine < theirs and (quorum is None or quorum >= other.quorum)


def _people(demand: Demand) -> str:
    people = named(demand.groups, demand.users)
    return f"{demand.quorum} of {people}" if demand.quorum > 1 else people


def counted(approval: Approval) -> list[Vote]:
    """Return the votes that count for the plan as it stands, the first first.

    Not those for another version of it, and not those of people who may not decide any more: a role that is taken
    away, an account that is closed or a stricter rule takes the vote with it.
    """
    votes = approval.votes.filter(void=False, plan_hash=approval.plan_hash, decision__in=IN_FAVOUR)
    return [vote for vote in votes.select_related("user").order_by("id") if counts(approval, vote)]


def counts(approval: Approval, vote: Vote) -> bool:
    """Tell whether a vote counts for the plan as it stands."""
    if vote.void or vote.plan_hash != approval.plan_hash or vote.decision not in IN_FAVOUR:
        return False
    return vote.user is not None and not why_not(approval, vote.user)


def able(
    groups: Sequence[str], users: Sequence[str], *, limit: int, not_own: bool, requested_by: int | None
) -> Script[int]:
    """Return how many active people may decide on a request with those terms, ``limit`` at most."""
    rows = yield (
        "SELECT count(*) AS able FROM (SELECT 1 FROM auth_user u WHERE u.is_active"
        " AND NOT coalesce(%(not_own)s AND u.id = %(asked)s::bigint, false)"
        " AND (u.username = ANY(%(users)s::text[])"
        # Admins are operators, and superusers are admins: `accounts.roles`.
        "  OR (u.is_superuser AND %(groups)s::text[] && '{admin,operator}')"
        "  OR EXISTS (SELECT 1 FROM auth_user_groups m JOIN auth_group g ON g.id = m.group_id WHERE m.user_id = u.id"
        "    AND (g.name = ANY(%(groups)s::text[]) OR (g.name = 'admin' AND 'operator' = ANY(%(groups)s::text[])))))"
        " LIMIT %(limit)s) found",
        {"groups": list(groups), "users": list(users), "limit": limit, "not_own": not_own, "asked": requested_by},
    )
    return int(rows[0]["able"])


def shortage(approval: Approval) -> str:
    """Say that too few people can decide on a request, and what helps; nothing if there are enough."""
    for demand in demands_of(approval):
        found = script.run(
            able(
                demand.groups,
                demand.users,
                limit=demand.quorum,
                not_own=approval.not_own,
                requested_by=approval.requested_by_id,
            )
        )
        if found < demand.quorum:
            return f"{_too_few(found, demand.quorum)} can. An admin puts people into their groups."
    return ""


def asked_of_too_few(found: int, quorum: int) -> str:
    """Say, in the reason of a request, that too few people could decide on it when it was made."""
    return f"{_too_few(found, quorum)} could when it was asked."


def _too_few(found: int, quorum: int) -> str:
    must = "One person has to decide" if quorum == 1 else f"{quorum} people have to agree"
    return f"{must}, and {f'only {found}' if found else 'nobody'}"
