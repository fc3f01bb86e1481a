"""A run as JSON, and back: what was measured once can be told again, without measuring.

Medians, intervals and verdicts are written for who reads the file; read back, they are made anew
from the rounds, so both ways give the same report.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import orjson
from hdrh.codec import HdrCookieException, HdrHistogramSettingsException, HdrLengthException
from hdrh.histogram import HdrHistogram

from benchmarks.audit import Faults
from benchmarks.harness import Arm, Comparison, Course, Limit, Result, Sample, Scenario

FORMAT = 2
"""Goes up when a file of before can no longer be read."""
BROKEN = (HdrCookieException, HdrHistogramSettingsException, HdrLengthException)


class DataError(Exception):
    """A file does not hold a run."""


@dataclass(frozen=True, slots=True)
class Run:
    """All that a report tells.

    Attributes:
        facts: what the figures were taken on: names and values, by title.
        results: of the scenarios, in the order they ran.
        missing: what was not measured, and why.
        command: the command line that was used.
        taken: when, as people write it.
    """

    facts: Mapping[str, Mapping[str, str]]
    results: Sequence[Result]
    missing: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    taken: str = ""


def as_data(result: Result) -> dict[str, Any]:
    """A scenario's result for JSON: every round of every arm, and the answers.

    The times of an arm are one histogram, of all rounds: a report needs no more, and a file with
    one for each round would be ten times the size.
    """
    scenario = result.scenario
    return {
        "name": scenario.name,
        "title": scenario.title,
        "headline": scenario.headline,
        "unit": scenario.unit,
        "rounds": scenario.rounds,
        "warmup": scenario.warmup,
        "course": scenario.course,
        "arms": [_arm_data(result, arm) for arm in scenario.arms],
        "comparisons": list(scenario.comparisons),
        "limits": list(scenario.limits),
        "verdicts": result.verdicts(),
    }


def _arm_data(result: Result, arm: Arm) -> dict[str, Any]:
    times = result.times(arm.name)
    return {
        "name": arm.name,
        "note": arm.note,
        "kind": arm.kind,
        "tier": arm.tier,
        "median": result.median(arm.name),
        "values": result.values(arm.name),
        "figures": result.figures(arm.name),
        "figures of rounds": [dict(sample.figures) for sample in result.samples[arm.name]],
        "faults": result.faults[arm.name],
        "times, ns": None if times is None else times.encode().decode(),
    }


def write_json(file: Path, run: Run) -> None:
    """Write everything to a file."""
    data = {
        "format": FORMAT,
        "command": run.command,
        "taken": run.taken,
        "facts": run.facts,
        "scenarios": [as_data(result) for result in run.results],
        "missing": run.missing,
    }
    file.write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2))


def read_json(file: Path) -> Run:
    """What `write_json` wrote.

    Raises:
        DataError: the file cannot be read, or is none of ours.
    """
    try:
        data = orjson.loads(file.read_bytes())
        if data["format"] != FORMAT:
            raise DataError(f"{file} has format {data['format']}, this program reads {FORMAT}")
        results = [_result(scenario) for scenario in data["scenarios"]]
        return Run(data["facts"], results, data["missing"], data["command"], data["taken"])
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} holds no run of this program: {error!r}") from None


def _result(data: Mapping[str, Any]) -> Result:
    arms = data["arms"]
    scenario = Scenario(
        data["name"],
        data["title"],
        data["unit"],
        [Arm(a["name"], _not_again, a["note"], a["kind"], a["tier"]) for a in arms],
        [Comparison(**comparison) for comparison in data["comparisons"]],
        [Limit(**limit) for limit in data["limits"]],
        rounds=data["rounds"],
        warmup=data["warmup"],
        headline=data["headline"],
        course=Course(**course) if (course := data.get("course")) else None,
    )
    return Result(
        scenario,
        {arm["name"]: _samples(arm) for arm in arms},
        {arm["name"]: Faults(**arm["faults"]) for arm in arms},
    )


def _samples(arm: Mapping[str, Any]) -> list[Sample]:
    """The rounds; the times of all of them are with the first."""
    encoded = arm["times, ns"]
    times = [None if encoded is None else _decoded(encoded)]
    rounds = zip(arm["values"], arm["figures of rounds"], strict=True)
    return [
        Sample(value, figures=figures, times=times.pop() if times else None)
        for value, figures in rounds
    ]


def _decoded(encoded: str) -> HdrHistogram:
    try:
        return HdrHistogram.decode(encoded)
    except (*BROKEN, zlib.error) as error:
        raise ValueError(f"a histogram that is none: {error}") from None


def _not_again() -> NoReturn:
    raise RuntimeError("this arm was read from a file: it can be told, not run")
