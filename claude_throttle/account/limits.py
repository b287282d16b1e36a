"""Each lane's limits: configured, learned and in force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Optional

from claude_throttle.core.domain.feedback import RateLimit, UsageWindow
from claude_throttle.core.pacing import gcra
from claude_throttle.core.pacing.configured_quotas import ConfiguredQuota, period_name
from claude_throttle.core.pacing.pacer import Pacer

if TYPE_CHECKING:
    from claude_throttle.account.suspension import Suspension
    from claude_throttle.core.dispatch.lane import Lane


class QuotaState(NamedTuple):
    """One quota of one lane. Amounts are requests or tokens."""

    #: "requests", "input_tokens", "output_tokens", "tokens".
    kind: str
    #: Seconds: 60.0, or 86,400.0 for a daily quota.
    per: float
    #: The configured amount, or None.
    told: Optional[float]
    #: The amount by the latest response, or None.
    learned: Optional[float]
    #: The smaller of both, less headroom.
    in_force: float
    #: Units that may be sent at once after a pause.
    burst: float
    #: Units that may be sent now, between 0 and the burst.
    remaining: float
    #: Where what is in force comes from: "told", "headers", "tier start", "rate limits API";
    #: "x-ratelimit headers" and the like: from a relay; "words of a refusal"; or "refusals":
    #: guessed, because nothing tells.
    source: str
    #: Units by which more was sent than the quota allows: until they accrue nothing is sent.
    overdrawn: float = 0.0


class LaneState(NamedTuple):
    """One lane: its quotas, what waits and is in flight, and what holds it up."""

    lane: str
    quotas: tuple[QuotaState, ...]
    #: Calls, retries and permits that wait for their turn.
    waiting: int
    #: Requests on the wire, those under a permit included.
    in_flight: int
    #: Seconds until a pause that the server asked for ends; 0.0 if there is none.
    paused_seconds: float
    #: "closed" (requests are sent), "open", "half-open".
    circuit: str
    #: Why nothing is sent, or None.
    suspended: Optional[str]
    #: The server's own words with that, and when access comes back, in its words; or None.
    suspended_message: Optional[str] = None
    suspended_until: Optional[str] = None
    #: Seconds until one call may be tried: while suspended, while the circuit is not closed, in a
    #: pause of more than 15 minutes.
    probe_seconds: Optional[float] = None
    #: Calls that were refused, and wait out the delay before they queue again.
    backing_off: int = 0
    #: Priority Tier's limits, by kind, as the latest answer showed them; or None.
    priority: Optional[Mapping[str, RateLimit]] = None
    #: Windows of usage, by name ("5h", "7d", "overall"), as the latest answer showed them; or None.
    windows: Optional[Mapping[str, UsageWindow]] = None


class Limits(dict[str, LaneState]):
    """The state of each lane, by its name; ``print()`` it for a table."""

    #: Requests in flight at most, over all lanes; inf while no limit was met. It is
    #: max_connections while those are what calls wait for.
    max_concurrency: float
    in_flight: int
    #: The store that processes share, and whether it answers; None if nothing is shared.
    store: Optional[str]
    #: Whether pause() is in force, so that nothing leaves until resume().
    paused: bool
    #: Whether that is pause(everywhere=True), which resume(everywhere=True) ends.
    paused_everywhere: bool = False
    #: Requests in flight at most by the setting of that name, or by the files that the process may
    #: open; None where nothing is known of them (Windows).
    max_connections: Optional[int]

    def __init__(
        self,
        lanes: dict[str, LaneState],
        max_concurrency: float,
        in_flight: int,
        store: Optional[str] = None,
        paused: bool = False,
        max_connections: Optional[int] = None,
    ) -> None:
        super().__init__(lanes)
        self.max_concurrency = max_concurrency
        self.in_flight = in_flight
        self.store = store
        self.paused = paused
        self.max_connections = max_connections

    def __str__(self) -> str:
        most = (
            "no limit met" if self.max_concurrency == float("inf") else f"{self.max_concurrency:g}"
        )
        if self.max_concurrency == self.max_connections:
            most += " (max_connections)"
        lines = [f"in flight: {self.in_flight}, at most: {most}"]
        if self.store is not None:
            lines.append(f"shared: {self.store}")
        if self.paused_everywhere:
            lines.append("paused everywhere: nothing leaves until resume(everywhere=True)")
        elif self.paused:
            lines.append("paused by pause(): nothing leaves until resume()")
        for lane in self.values():
            lines += _lines(lane)
        return "\n".join(lines)


def _lines(lane: LaneState) -> list[str]:
    state = [f"{lane.waiting} waiting", f"{lane.in_flight} in flight"]
    if lane.backing_off:
        state.append(f"{lane.backing_off} backing off")
    if lane.paused_seconds:
        state.append(f"paused for {lane.paused_seconds:.1f} s")
    if lane.circuit != "closed":
        state.append(f"circuit {lane.circuit}")
    if lane.suspended:
        state.append(f"suspended: {lane.suspended}")
    lines = ["", f"{lane.lane}: {', '.join(state)}"]
    lines += _other_lines(lane)
    if not lane.quotas:
        known = bool(lane.priority or lane.windows)
        return lines if known else [*lines, "  nothing is known yet: the first answer tells"]
    head = ("quota", "told", "learned", "in force", "at once", "left now", "from")
    rows = [head, *map(_row, lane.quotas)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:]))
        lines.append(f"  {row[0]:<{widths[0]}}  {'  '.join(cells)}")
    return lines


def _other_lines(lane: LaneState) -> list[str]:
    """What is shown and not paced on."""
    lines = [
        f"  priority tier: {left:,.0f} of {limit:,.0f} {kind.replace('_', ' ')} left"
        for kind, (limit, left) in (lane.priority or {}).items()
    ]
    for name, window in (lane.windows or {}).items():
        said = [window.status] if window.status else []
        if window.utilization is not None:
            said.append(f"{100 * window.utilization:.0f} % used")
        if window.resets_at is not None:
            said.append(f"until {_shown_instant(window.resets_at)}")
        lines.append(f"  window {name}: {', '.join(said)}")
    return lines


def _shown_instant(seconds: float) -> str:
    from datetime import datetime, timezone  # only for those who look

    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s after 1970"


def _row(quota: QuotaState) -> tuple[str, ...]:
    amounts = (quota.told, quota.learned, quota.in_force, quota.burst)
    shown = ("-" if amount is None else f"{amount:,.0f}" for amount in amounts)
    name = f"{quota.kind.replace('_', ' ')} a {period_name(quota.per)}"
    return (name, *shown, gcra.whole_units(quota.remaining), quota.source)


def state_of(lane: Lane, pacer: Pacer, suspension: Optional[Suspension]) -> LaneState:
    """The state of a lane. Requires its mutex."""
    now, circuit, others = lane.now(), pacer.circuit, lane.accounting.other_limits
    state = LaneState(
        lane.name,
        quotas_of(pacer, now),
        lane.waiting(),
        lane.in_flight(),
        max(0.0, pacer.pause.ends_at - now),
        circuit.state,
        None,
        backing_off=lane.backing_off(),
        priority=dict(others.priority) or None,
        windows=dict(others.windows) or None,
    )
    if suspension is not None:
        return state._replace(
            suspended=suspension.reason,
            suspended_message=suspension.message,
            suspended_until=suspension.until,
            probe_seconds=suspension.seconds_until_probe(now),
        )
    if circuit.is_open:
        return state._replace(probe_seconds=max(0.0, circuit.opens_at() - now))
    if pacer.pause.ends_at > pacer.pause.until:
        return state._replace(probe_seconds=max(0.0, pacer.pause.until - now))
    return state


def quotas_of(pacer: Pacer, now: float) -> tuple[QuotaState, ...]:
    """Every quota of a lane. Requires the lane's mutex."""
    told = {(quota.kind, quota.quota.per): quota for quota in pacer.configured}
    ceilings = {q.kind: q for q in pacer.configured.by_name().values() if q not in told.values()}
    rows = []
    for kind in pacer.learned:
        minute = told.pop((kind, 60.0), None)
        rows.append(_learned_row(pacer, kind, minute, ceilings.get(kind), now))
    for key, stated in pacer.configured.stated.items():
        rows.append(_stated_row(stated, told.pop(key, None), now))
    rows += [_told_row(quota, now) for quota in told.values()]
    return tuple(row for row in rows if row is not None)


def _told_row(told: ConfiguredQuota, now: float) -> QuotaState:
    amount, per = told.quota.amount, told.quota.per
    row = QuotaState(told.kind, per, amount, None, amount, told.burst, 0.0, "told")
    return _with_level(row, told.level(now))


def _with_level(row: QuotaState, level: float) -> QuotaState:
    left = gcra.shown(level, row.burst)
    return row._replace(remaining=left, overdrawn=max(0.0, -level))


def _stated_row(stated: ConfiguredQuota, told: Optional[ConfiguredQuota], now: float) -> QuotaState:
    """A quota that the API's headers do not show."""
    both = [quota for quota in (told, stated) if quota is not None]
    least = min(both, key=lambda quota: quota.quota.amount)
    row = QuotaState(
        stated.kind,
        stated.quota.per,
        None if told is None else told.quota.amount,
        stated.quota.amount,
        least.quota.amount,
        min(quota.burst for quota in both),
        0.0,
        least.source,
    )
    return _with_level(row, min(quota.level(now) for quota in both))


def _learned_row(
    pacer: Pacer,
    kind: str,
    told: Optional[ConfiguredQuota],
    ceiling: Optional[ConfiguredQuota],
    now: float,
) -> Optional[QuotaState]:
    """*ceiling*: what headroom leaves of what was learned."""
    learned = pacer.learned[kind]
    if not learned.known:
        return None if told is None else _told_row(told, now)
    most = learned.limit if ceiling is None else ceiling.quota.amount
    binding = [quota for quota in (told, ceiling) if quota is not None]
    row = QuotaState(
        kind,
        60.0,
        None if told is None else told.quota.amount,
        learned.limit,
        min([learned.limit, *(quota.quota.amount for quota in binding)]),
        min([learned.burst, *(quota.burst for quota in binding)]),
        0.0,
        "told" if told is not None and told.quota.amount <= most else learned.source,
    )
    return _with_level(row, min([learned.level(now), *(quota.level(now) for quota in binding)]))
