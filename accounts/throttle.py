"""How often one may try to sign in: counted in Redis, so that all web processes count together.

An attempt counts before its password is looked at, and is given back if it was right: attempts at the same moment
cannot slip past the bound. Whoever reached it waits half a minute, then twice as long after each further attempt, a
quarter of an hour at most. Nobody is locked out for good, and a browser that has signed in to the account before
(`accounts.devices`) is counted by itself, so that strangers who guess do not keep its owner out.

Without Redis nothing is counted; what a process can check at a time is bounded all the same (`accounts.gate`).
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import redis
from django.conf import settings
from django.http import HttpRequest
from redis.backoff import NoBackoff
from redis.retry import Retry

from accounts import devices
from accounts.actors import client_address

logger = logging.getLogger(__name__)

#: Attempts are counted for so long from the first one on. Seconds.
WINDOW_S = 300
#: The first wait, and the longest. Seconds.
FIRST_WAIT_S, LONGEST_WAIT_S = 30, 900
#: A bound that was reached is remembered for so long after the last attempt. Seconds.
REMEMBER_S = 3600
#: So many attempts within the window: from one address or one known browser for one account, …
PER_ACCOUNT_AND_ADDRESS = 10
#: … from one address for any accounts, …
PER_ADDRESS = 50
#: … and for one account from any address.
PER_ACCOUNT = 100
#: The trail takes so many failed sign-ins within an hour under one name, and under all names. The log has each.
NOTED_PER_NAME, NOTED_IN_ALL, NOTED_S = 20, 500, 3600

#: KEYS: for each counter its own key and the one that is there while one has to wait. ARGV: WINDOW, FIRST, LONGEST,
#: REMEMBER, then each counter's bound. Returns the milliseconds to wait, and which counters have now reached theirs.
TAKE = """
local wait = 0
for i = 2, #KEYS, 2 do wait = math.max(wait, redis.call('PTTL', KEYS[i])) end
if wait > 0 then return {wait} end
local reached = {0}
for i = 1, #KEYS, 2 do
  local count = redis.call('INCR', KEYS[i])
  if count == 1 then redis.call('EXPIRE', KEYS[i], ARGV[1]) end
  local over = count - tonumber(ARGV[4 + (i + 1) / 2])
  if over >= 0 then
    redis.call('SET', KEYS[i + 1], '', 'EX', math.min(ARGV[2] * 2 ^ math.min(over, 20), ARGV[3]))
    redis.call('EXPIRE', KEYS[i], ARGV[4])
    if over == 0 then table.insert(reached, (i - 1) / 2) end
  end
end
return reached
"""
#: KEYS as above, ARGV: each counter's bound. Takes one attempt back, and the wait that it brought.
GIVE_BACK = """
for i = 1, #KEYS, 2 do
  if tonumber(redis.call('GET', KEYS[i]) or 0) > 0 then
    if redis.call('DECR', KEYS[i]) < tonumber(ARGV[(i + 1) / 2]) then redis.call('DEL', KEYS[i + 1]) end
  end
end
"""
#: KEYS: the counter of a name, and of all. ARGV: the bound of each, NOTED_S. Returns 0: no; 1: yes; 2: the last one.
NOTE = """
local count = {0, 0}
for i = 1, 2 do
  count[i] = redis.call('INCR', KEYS[i])
  if count[i] == 1 then redis.call('EXPIRE', KEYS[i], ARGV[3]) end
  if count[i] > tonumber(ARGV[i]) then return {0} end
end
return {(count[1] == tonumber(ARGV[1]) or count[2] == tonumber(ARGV[2])) and 2 or 1}
"""


class TooManyAttempts(Exception):
    """One has to wait for ``wait_s`` seconds before the next attempt."""

    def __init__(self, wait_s: int) -> None:
        super().__init__(f"try again in {wait_s} s")
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Counter:
    """What attempts are counted by, and how many there may be."""

    kind: str
    name: str
    most: int

    @property
    def keys(self) -> tuple[str, str]:
        """Its keys in Redis: the count, and the wait."""
        key = f"astra:signing-in:{self.kind}:{_digest(self.name)}"
        return key, f"{key}:wait"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that was counted. ``reached`` names the counters whose bound it has reached."""

    counters: Sequence[Counter]
    reached: Sequence[str] = ()

    def give_back(self) -> None:
        """Count it no more: it came to nothing, and that was not the person's doing."""
        _run(GIVE_BACK, self.counters, [counter.most for counter in self.counters])

    def succeed(self) -> None:
        """Count it no more, nor those before it from the same place: the person knows the password."""
        first = self.counters[0]
        try:
            _client(settings.REDIS_URL).delete(*first.keys)
        except redis.RedisError as error:
            _warn(error)
        _run(GIVE_BACK, self.counters[1:], [counter.most for counter in self.counters[1:]])


def begin(request: HttpRequest, account: str) -> Attempt:
    """Count an attempt to sign in to ``account``, whether there is such an account or not.

    Raises:
        TooManyAttempts: there were too many. This one is not counted.
    """
    counters = list(_counters(request, account))
    times = [WINDOW_S, FIRST_WAIT_S, LONGEST_WAIT_S, REMEMBER_S]
    wait_ms, *reached = _run(TAKE, counters, [*times, *(counter.most for counter in counters)]) or [0]
    if wait_ms > 0:
        raise TooManyAttempts(math.ceil(wait_ms / 1000))
    return Attempt(counters, [counters[place].kind for place in reached])


def may_note(account: str) -> bool | None:
    """Tell whether the trail takes one more failed sign-in now: None if not, True if it is the last for a while.

    Without Redis it takes none: nothing else bounds them.
    """
    keys = [f"astra:noted-sign-ins:{_digest(devices.account_name(account))}", "astra:noted-sign-ins"]
    found = _script(NOTE, keys, [NOTED_PER_NAME, NOTED_IN_ALL, NOTED_S])
    return None if not found or not found[0] else found[0] == 2


def _counters(request: HttpRequest, account: str) -> Iterator[Counter]:
    account = devices.account_name(account)
    if device := devices.known(request, account):
        yield Counter("device", device, PER_ACCOUNT_AND_ADDRESS)
        return
    address = _network(client_address(request))
    yield Counter("pair", f"{address} {account}", PER_ACCOUNT_AND_ADDRESS)
    yield Counter("address", address, PER_ADDRESS)
    yield Counter("account", account, PER_ACCOUNT)


def _network(address: str) -> str:
    """Return what one subscriber has: an IPv4 address, or 64 bits of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)


def _run(script: str, counters: Sequence[Counter], arguments: Sequence[int]) -> list[int]:
    if not counters:
        return []
    return _script(script, [key for counter in counters for key in counter.keys], arguments)


def _script(script: str, keys: Sequence[str], arguments: Sequence[int]) -> list[int]:
    try:
        return cast("list[int]", _client(settings.REDIS_URL).register_script(script)(keys, arguments) or [])
    except redis.RedisError as error:
        _warn(error)
        return []


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _warn(error: Exception) -> None:
    logger.warning("attempts to sign in are not counted: %s", error, extra={"action": "throttle_outage"})


@cache
def _client(url: str) -> Any:
    return redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 1))
