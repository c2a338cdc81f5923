"""What a sequence means, said as plainly as possible: all events at once, no state.

Slow (every pair of events is looked at) and independent of the code in detect/sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Event", "Plan", "fires"]


@dataclass(frozen=True)
class Event:
    """steps: numbers of the steps whose condition it meets. chain: its process and ancestors up to
    the container's first process; value: of the field that is counted."""

    time: int
    steps: frozenset[int]
    container: str
    chain: tuple[int, ...]
    value: str


@dataclass(frozen=True)
class Plan:
    """counts, distinct: by step. by: 'container' or 'tree'."""

    within: int
    ordered: bool
    counts: tuple[int, ...]
    distinct: tuple[bool, ...]
    by: str


def fires(plan: Plan, events: list[Event]) -> list[int]:
    """Times at which the sequence is complete."""
    steps = len(plan.counts)
    happenings = [
        [event for event in events if step in event.steps and _happens(plan, events, event, step)]
        for step in range(steps)
    ]
    found: list[int] = []
    for step in range(steps):
        for event in happenings[step]:
            if plan.ordered and step < steps - 1:
                continue
            if plan.ordered:
                complete = _led_to(plan, happenings, steps - 2, event, event.time - plan.within)
            else:
                complete = all(
                    any(_before(plan, one, other, event, step) for one in happenings[other])
                    for other in range(steps)
                    if other != step
                )
            if complete:
                found.append(event.time)
    return sorted(found)


def _happens(plan: Plan, events: list[Event], event: Event, step: int) -> bool:
    near = [
        one
        for one in events
        if step in one.steps
        and event.time - plan.within <= one.time <= event.time
        and _place(plan, one) == _place(plan, event)
    ]
    number = len({one.value for one in near}) if plan.distinct[step] else len(near)
    return number >= plan.counts[step]


def _place(plan: Plan, event: Event) -> tuple[object, ...]:
    """Where it is counted: the container, or the branch of the tree."""
    if plan.by == "container":
        return (event.container,)
    return (event.chain[-2] if len(event.chain) > 1 else event.chain[-1],)


def _led_to(plan: Plan, happenings: list[list[Event]], step: int, after: Event, since: int) -> bool:
    if step < 0:
        return True
    return any(
        since <= one.time < after.time
        and _related(plan, one, after)
        and _led_to(plan, happenings, step - 1, one, since)
        for one in happenings[step]
    )


def _before(plan: Plan, one: Event, other: int, event: Event, step: int) -> bool:
    """One event that is both steps is taken as the later step first."""
    in_time = event.time - plan.within <= one.time < event.time
    itself = one.time == event.time and other > step
    return (in_time or itself) and _related(plan, one, event)


def _related(plan: Plan, one: Event, other: Event) -> bool:
    if plan.by == "container":
        return one.container == other.container
    above = one.chain[0] in other.chain or other.chain[0] in one.chain
    return above or _place(plan, one) == _place(plan, other)
