"""What an evaluation says: on a terminal, in at most 80 columns, the scores that matter; all of them in files."""

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.files import write_json, write_text

from .scoring import Evaluation
from .table import LEGEND, SHORT, aligned, markdown, powers, table

WIDTH = 80
Rows = Mapping[str, Mapping[str, Any]]  # `Evaluation.summaries`


def wrapped(*sentences: str) -> str:
    """Each sentence on lines of its own."""
    how: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": "  "}
    return "\n".join(textwrap.fill(sentence, WIDTH, **how) for sentence in sentences)


def report(rows: Rows, by_region: Mapping[str, float], notes: Iterable[str]) -> str:
    """The table of all predictors, then where the first one's error lies (`Evaluation.mean_by_region`), and the calibration of
    samples.
    """
    first = next(iter(rows))
    regions = ", ".join(f"{name} {value:.4f}" for name, value in by_region.items())
    calibrations = {name: row["calibration"] for name, row in rows.items() if "calibration" in row}
    sentences = [f"NMSE of {first} by region: {regions}."]
    sentences += [sentence for each in calibrations.items() for sentence in calibration_sentences(*each)]
    sentences.append(f"Mean power of the targets: {powers(rows[first])}.")
    return f"\n{aligned(table(rows, SHORT))}\n\n{wrapped(*sentences, *notes)}"


def calibration_sentences(name: str, found: Mapping[str, Any]) -> list[str]:
    """What `Calibration.summary` says about a predictor's samples."""

    def covered(key: str) -> str:
        return ", ".join(f"{float(level):.0%}: {fraction:.1%}" for level, fraction in found[key].items())

    differ = f"{covered('coverage_where_samples_differ')} of the {found['differing']:.1%} of them where samples differ"
    return [
        f"{name}: CRPS {found['crps']:.2f} dB, spread {found['spread']:.2f} dB, error {found['error']:.2f} dB.",
        f"{name}: intervals cover {covered('coverage')} of all open pixels, {differ}.",
    ]


def write_scores(
    path: Path, evaluation: Evaluation, rows: Rows, facts: Mapping[str, Any], own: Mapping[str, str]
) -> None:
    """JSON: the first predictor's scores and `facts`; under `own` names the rows named there; the others as `baselines`."""
    first = next(iter(rows))
    content = dict(rows[first]) | {key: rows.get(name) for key, name in own.items()}
    content["baselines"] = {name: row for name, row in rows.items() if name not in (first, *own.values())}
    content |= facts
    content |= {"nmse_by_region": evaluation.mean_by_region(), "convention": LEGEND}
    write_json(path, content | {"per_map": evaluation.scores[first].rows})


def write_markdown(path: Path, rows: Rows, facts: Mapping[str, Any]) -> None:
    """What was scored, and the table of all scores."""
    head = ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None)
    power = f"Mean power of the targets: {powers(next(iter(rows.values())))}."
    write_text(path, f"{head}\n\n{markdown(table(rows))}\n\n{power} {LEGEND}\n")
