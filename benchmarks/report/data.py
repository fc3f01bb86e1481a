"""Store a run as JSON and read it back, to report it again without measuring.

The file also holds medians, intervals and verdicts, for other programs. `read_json` ignores them:
they are computed again from the rounds, so both runs give the same report.
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

FORMAT = 3
"""Increased when this program can no longer read the files of before."""
BROKEN = (HdrCookieException, HdrHistogramSettingsException, HdrLengthException, zlib.error)


class DataError(Exception):
    """Raised if a file does not hold a run."""


@dataclass(frozen=True, slots=True)
class Run:
    """Hold what a report is made from.

    Attributes:
        facts: the machine and the servers: names and values, by title.
        results: the results of the scenarios, in the order of the run.
        missing: what was not measured, with the reason.
        command: the command line that was used.
        taken: the date and time of the run.
    """

    facts: Mapping[str, Mapping[str, str]]
    results: Sequence[Result]
    missing: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    taken: str = ""


def write_json(file: Path, run: Run) -> None:
    """Write a run to a file."""
    data = {
        "format": FORMAT,
        "command": run.command,
        "taken": run.taken,
        "facts": run.facts,
        "scenarios": [_scenario_data(result) for result in run.results],
        "missing": run.missing,
    }
    file.write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2))


def _scenario_data(result: Result) -> dict[str, Any]:
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
    # One histogram for all rounds: one per round would make the file ten times as large.
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


def read_json(file: Path) -> Run:
    """Read a run that `write_json` wrote.

    Raises:
        DataError: the file cannot be read, or holds no run.
    """
    try:
        data = orjson.loads(file.read_bytes())
        if data["format"] != FORMAT:
            raise DataError(f"{file} has format {data['format']}, this program reads {FORMAT}")
        results = [_result(scenario) for scenario in data["scenarios"]]
        return Run(data["facts"], results, data["missing"], data["command"], data["taken"])
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, *BROKEN) as error:
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
    faults = {arm["name"]: Faults(**arm["faults"]) for arm in arms}
    return Result(scenario, {arm["name"]: _samples(arm) for arm in arms}, faults)


def _samples(arm: Mapping[str, Any]) -> list[Sample]:
    """Return the rounds of an arm; the first one has the times of all of them."""
    encoded = arm["times, ns"]
    times = [None if encoded is None else HdrHistogram.decode(encoded)]
    rounds = zip(arm["values"], arm["figures of rounds"], strict=True)
    return [
        Sample(value, figures=figures, times=times.pop() if times else None)
        for value, figures in rounds
    ]


def _not_again() -> NoReturn:
    raise RuntimeError("an arm that was read from a file does not run")
