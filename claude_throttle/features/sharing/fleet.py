"""``claude_throttle.fleet()``: which processes share quotas in a store, and the quotas' state.

Reads the store from outside: the caller need not be one of the processes, has no key and takes no
slot. What a member says of itself is JSON of its own version of the package, so what cannot be read
is left out instead of failing the report.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

from claude_throttle.config import validation as checks
from claude_throttle.config.settings import Settings
from claude_throttle.core.pacing import gcra
from claude_throttle.core.pacing.configured_quotas import period_name
from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.errors import ConfigurationError, ThrottleError
from claude_throttle.features.sharing.open_store import account_name, open_store
from claude_throttle.features.sharing.shared_pause import is_paused, pause_account
from claude_throttle.features.sharing.stores.contract import (
    Store,
    StoredLane,
    StoredMember,
    StoreFailed,
)
from claude_throttle.features.sharing.virtual_queue import BUCKET, SUFFIX


class FleetMember(NamedTuple):
    """One process that shares an account; its numbers are those of its last heartbeat."""

    #: A salted hash of the key; equal for those that share.
    account: str
    host: str
    pid: int
    #: By lane: calls that wait, and requests in flight.
    lanes: dict[str, tuple[int, int]]
    #: Seconds until it counts as gone, unless it sends another heartbeat.
    expires_seconds: float
    #: Whether it was paused by itself, with pause().
    paused: bool = False


class FleetLane(NamedTuple):
    """One lane whose quotas processes share; its counts of calls are sums over all members."""

    account: str
    lane: str
    #: By quota: units that may leave now, between 0 and the burst, and units a minute.
    quotas: dict[str, tuple[float, float]]
    #: Seconds for which nothing leaves, because the API said so.
    paused_seconds: float
    waiting: int
    in_flight: int
    #: Why nothing is sent at all; None if the account is not suspended.
    suspended: Optional[str]
    #: Seconds' worth of calls that hold a ticket of ``line_up()``.
    line_seconds: float


class FleetState(NamedTuple):
    """The processes and lanes in a store at one moment; ``print()`` it for a report."""

    #: The store's address, without a password.
    store: str
    members: tuple[FleetMember, ...]
    lanes: tuple[FleetLane, ...]
    #: Accounts whose processes are all paused: pause(everywhere=True), ``claude-throttle pause``.
    paused: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not (self.members or self.lanes or self.paused):
            return f"{self.store}: nobody is there"
        count = len(self.members)
        lines = [f"{self.store}: {count} process{'es' * (count != 1)}"]
        lines += [
            f"  account {account[:6]} is paused everywhere: "
            "resume(everywhere=True) or claude-throttle resume lets it go on"
            for account in self.paused
        ]
        lines += [f"  {_member_text(member)}" for member in self.members]
        for lane in self.lanes:
            lines += ["", *_lane_text(lane)]
        return "\n".join(lines)


def fleet(shared: Any, *, timeout: float = 2.0) -> FleetState:
    """The processes that were given the same ``shared=``, and their quotas, as the store has them.

    *timeout* is in seconds. Raises :class:`ConfigurationError` for an address that cannot be used,
    and :class:`ThrottleError` if the store cannot be reached. Thread-safe; starts no throttler::

        print(claude_throttle.fleet("redis://localhost:6379/0"))
    """
    with _opened(shared, timeout) as store:
        found = store.fleet()
    members = tuple(map(_member_of, found.members))
    bursts = _bursts_of([*found.members, *found.gone])
    queued = {(lane.account, lane.lane): _queued_seconds(lane) for lane in found.lanes}
    lanes = (
        _lane_of(
            lane,
            members,
            found.notices.get(lane.account, ""),
            bursts,
            queued.get((lane.account, lane.lane + SUFFIX), 0.0),
        )
        for lane in found.lanes
        if lane.lane and not lane.lane.endswith(SUFFIX)
    )
    paused = tuple(lane.account for lane in found.lanes if is_paused(lane))
    return FleetState(store.name, members, tuple(lanes), paused)


@contextlib.contextmanager
def _opened(shared: Any, timeout: float) -> Iterator[Store]:
    checks.require_store(shared)
    store = open_store(shared, timeout, SYSTEM_CLOCK)
    try:
        yield store
    except StoreFailed as error:
        raise ThrottleError(str(error)) from None
    finally:
        store.close()


def pause_fleet(
    shared: Any, *, timeout: float = 2.0, settings: Optional[Settings] = None
) -> tuple[str, ...]:
    """Pause all processes that share a store, as pause(everywhere=True) does in one of them.

    Returns the accounts: all in the store, and the one whose key is in *settings*, else in the
    environment, so that processes that start later are paused, too. Raises what :func:`fleet`
    raises. Thread-safe::

        claude_throttle.pause_fleet("redis://localhost:6379/0")
    """
    return _pause_fleet(shared, timeout, settings, True)


def resume_fleet(
    shared: Any, *, timeout: float = 2.0, settings: Optional[Settings] = None
) -> tuple[str, ...]:
    """End pause_fleet() and pause(everywhere=True) for all accounts in a store; returns those.

    Raises what :func:`fleet` raises. Thread-safe::

        claude_throttle.resume_fleet("redis://localhost:6379/0")
    """
    return _pause_fleet(shared, timeout, settings, False)


def _pause_fleet(
    shared: Any, timeout: float, settings: Optional[Settings], paused: bool
) -> tuple[str, ...]:
    with _opened(shared, timeout) as store:
        found = store.fleet()
        accounts = {lane.account for lane in found.lanes} | {one.account for one in found.members}
        with contextlib.suppress(ConfigurationError):
            settings = settings or Settings.given(None, {})
            if settings.api_key or settings.auth_token:
                accounts.add(account_name(settings))
        for account in sorted(accounts):
            pause_account(store, account, paused)
    return tuple(sorted(accounts))


def _info_of(member: StoredMember) -> dict[str, Any]:
    with contextlib.suppress(ValueError):  # perhaps of another version
        info = json.loads(member.info)
        if isinstance(info, dict):
            return info
    return {}


def _bursts_of(members: list[StoredMember]) -> dict[tuple[str, str, str], float]:
    """By account, lane and quota: the most units that any member lets leave at once."""
    found: dict[tuple[str, str, str], float] = {}
    for member in members:
        for lane, bursts in _info_of(member).get("bursts", {}).items():
            for name, burst in bursts.items():
                key = (member.account, lane, name)
                found[key] = max(found.get(key, 0.0), burst)
    return found


def _member_of(member: StoredMember) -> FleetMember:
    info = _info_of(member)
    lanes = {name: (counts[0], counts[1]) for name, counts in info.get("lanes", {}).items()}
    host, pid = info.get("host", member.member), info.get("pid", 0)
    paused = info.get("paused") is True
    return FleetMember(member.account, host, pid, lanes, member.expires_seconds, paused)


# A notice is JSON by lane, with "" for the whole account; see ``account/suspensions``.
def _lane_of(
    lane: StoredLane,
    members: tuple[FleetMember, ...],
    notice: str,
    bursts: dict[tuple[str, str, str], float],
    line_seconds: float,
) -> FleetLane:
    counts = [
        m.lanes[lane.lane] for m in members if m.account == lane.account and lane.lane in m.lanes
    ]
    suspended = json.loads(notice) if notice else {}
    reason = suspended.get("", suspended.get(lane.lane))
    return FleetLane(
        lane.account,
        lane.lane,
        {name: _quota_of(lane, name, bursts) for name in lane.levels},
        lane.paused_seconds,
        sum(waiting for waiting, _ in counts),
        sum(out for _, out in counts),
        reason[0] if reason else None,
        line_seconds,
    )


# A store keeps no bursts but learned ones: members tell theirs, from 1.0 on. Without any word of it
# a period's worth is the most that a quota can mean.
def _quota_of(
    lane: StoredLane, name: str, bursts: dict[tuple[str, str, str], float]
) -> tuple[float, float]:
    """What may leave now, and units a minute."""
    level, rate = lane.levels[name]
    learned = json.loads(lane.facts).get(name) if lane.facts else None
    burst = learned[1] if learned else rate * _period(name)
    return gcra.shown(level, bursts.get((lane.account, lane.lane, name), burst)), 60.0 * rate


def _period(name: str) -> float:
    """The seconds of a quota, by its name: "rpd", "tokens a day (learned)"."""
    if name in ("rpd", "tpd") or " a day" in name:
        return 86_400.0
    return 3_600.0 if " a hour" in name else 60.0


def _queued_seconds(lane: StoredLane) -> float:
    """Seconds until a virtual queue has moved up to its end; 0 for any other lane."""
    return max(0.0, -lane.levels.get(BUCKET, (0.0, 0.0))[0])


def _member_text(member: FleetMember) -> str:
    lanes = ", ".join(
        f"{name} {w} waiting {out} in flight" for name, (w, out) in member.lanes.items()
    )
    paused = ", paused by its own pause()" * member.paused
    return f"{member.host} pid {member.pid}: {lanes or 'no calls yet'}{paused}"


def _lane_text(lane: FleetLane) -> list[str]:
    state = [f"{lane.waiting} waiting", f"{lane.in_flight} in flight"]
    if lane.paused_seconds > 0:
        state.append(f"paused for {lane.paused_seconds:.1f} s")
    if lane.line_seconds > 0:
        state.append(f"{lane.line_seconds:.0f} s of tickets")
    if lane.suspended:
        state.append(f"suspended: {lane.suspended}")
    lines = [f"{lane.lane} (account {lane.account[:6]}): {', '.join(state)}"]
    for name, (level, a_minute) in lane.quotas.items():
        left, what = gcra.whole_units(level), name.replace("_", " ")
        seconds = _period(name)
        rate = f"{seconds / 60.0 * a_minute:,.0f} a {period_name(seconds)}"
        lines.append(f"  {what}: {left} left now of {rate}")
    return lines
