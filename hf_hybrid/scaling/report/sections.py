"""The sections of a study's report: sentences and tables of what its files say, with the figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from hf_hybrid.hub.card_metadata import corpus_name
from hf_hybrid.records.schema import SETTINGS
from hf_hybrid.scaling.grid.arms import ARMS, find_script, make_budget_key

from .charts import NAMES, Row
from .figures import (
    BIASES,
    COSTS,
    QUALITIES,
    Figure,
    Report,
    at,
    bias_figures,
    curve_figures,
    growth_figures,
    growth_rows,
    pair_figures,
    profile_figures,
    trade_figures,
)


class Section(NamedTuple):
    """A section of the page, in the order of its parts."""

    id: str
    title: str
    answer: Sequence[str] = ()
    texts: Sequence[str] = ()
    points: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    details: Sequence[Table] = ()  # tables that are closed at first


def sections(report: Report) -> list[Section]:
    """All sections that there is something to say in.

    Args:
        report (`Report`): Of a study.
    """
    cost, bias = list(growth_figures(report, COSTS)), list(bias_figures(report))
    quality = [*growth_figures(report, QUALITIES), *curve_figures(report)]
    all_of_it = [
        Section("answer", "The answer", answer(report), how_to_read(report), tables=[main_table(report)]),
        Section("cost", "Cost", figures=cost, details=laws(report, COSTS, "Costs against L")),
        Section("quality", "Quality", figures=quality, details=laws(report, QUALITIES, "Quality against L")),
        Section("trade", "Trade-off", [], [_TRADE], figures=list(trade_figures(report))),
        Section("pairs", "Pairs", [], [_PAIRS], figures=list(pair_figures(report))),
        Section("bias", "Bias", [], [_BIAS], figures=bias, details=laws(report, BIASES, "Bias against L")),
        Section("step", "A step's time", [], [_STEP], figures=list(profile_figures(report))),
        Section("plan", "What ran", points=_troubles(report), tables=[_plan(report)], details=[_trials(report)]),
        Section("data", "Data and licenses", [], _data(report), tables=[_languages(report)]),
        Section("methods", "Methods", points=_methods(report), tables=[_arms(report)], details=[_settings(report)]),
        Section("limits", "Limits", points=_limits(report)),
    ]
    return [found for found in all_of_it if found.points or found.tables or found.figures]


_TRADE = (
    "What an arm is good at: queries and passages in one language, in two, and passages of all languages together."
)
_PAIRS = "Queries of one language against passages of another. All maps have the same scale of colors."
_BIAS = (
    "In the ranking of passages of all languages together, the rank distance is that of the highest and the lowest of "
    "the passages which say the same; an unbiased retriever ranks them side by side."
)
_STEP = "Of single runs on this machine, from benchmarks/step_profile.py."


def title(report: Report) -> str:
    """Return the title of the page."""
    number = len(report.study["arms"])
    arms = f"{number} training recipe{'s' if number != 1 else ''}"
    return f"What does each extra language cost? {arms}, {_range(report)} languages"


def subtitle(report: Report) -> str:
    """Describe the study in one line."""
    base, study = report.study["base"], report.study
    size = f"{base.get('scratch_num_layers')} layers of {base.get('scratch_hidden_size')}"
    start = f"From {name}" if (name := base.get("model_name_or_path")) else f"Models from scratch ({size})"
    seeds = f"{len(report.seeds)} seed{'s' if len(report.seeds) != 1 else ''}"
    devices = ", ".join(f"{n} x {name}" for name, n in Counter(study["environment"].get("devices") or []).items())
    arms, how = f"{len(study['arms'])} arms", f"budget: {_budget(report)}"
    return "; ".join([start, arms, seeds, how, devices or "CPU"]) + "."


def _budget(report: Report) -> str:
    """Describe the budget."""
    how = str(report.study["budget"]["how"])
    has_mlm = any(ARMS[arm].mlm for arm in report.study["arms"])
    return how if has_mlm else how.partition("; masked language modeling")[0]


def _range(report: Report) -> str:
    counts = sorted(map(int, report.study["language_sets"]))
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


# Planned, and what ran


def _plan(report: Report) -> Table:
    """Return trials, planned and completed optimizer steps for each arm and L."""
    rows = []
    for arm, count in dict.fromkeys((row["arm"], row["num_languages"]) for row in in_order(report.rows)):
        trials = [row for row in report.rows if (row["arm"], row["num_languages"]) == (arm, count)]
        if trials[0]["status"] != "absent":
            found = Counter(row["status"] for row in trials)
            counts = [found[status] or None for status in ("finished", "failed", "missing")]
            steps = [_steps(report, trials, stage) for stage in ("train", "mlm")]
            rows.append([NAMES[arm], count or "–", len(trials), *counts, *steps[0], *steps[1]])
    head = ["arm", "L", "trials", "finished", "failed", "missing", "steps planned", "ran", "MLM steps planned", "ran"]
    return Table("Trials of the grid, and optimizer steps of each.", head, rows)


def _steps(report: Report, trials: Sequence[Row], stage: str) -> list[str | None]:
    """Return the steps of a stage: planned, and taken by finished trials."""
    name = {"train": "steps", "mlm": "mlm_steps"}[stage]
    arm = ARMS[trials[0]["arm"]]
    if not (arm.mix if stage == "train" else arm.mlm):
        return [None, None]
    planned = report.study["budget"][name].get(make_budget_key(trials[0]["arm"], trials[0]["num_languages"]))
    ran = sorted({row["stages"][stage]["num_steps"] for row in trials if stage in row["stages"]})
    return [number(planned), " to ".join(f"{end:,}" for end in dict.fromkeys([ran[0], ran[-1]])) if ran else None]


def _troubles(report: Report) -> list[str]:
    """Every trial that is not there, with the reason."""
    failed = [f"{row['id']} failed: {row['reason']}" for row in report.rows if row["status"] == "failed"]
    missing = [row["id"] for row in report.rows if row["status"] == "missing"]
    begun = [f"Not run to their end: {', '.join(missing)}."] if missing else []
    absent = [f"{row['id']} is not in the grid: {row['reason']}." for row in report.rows if row["status"] == "absent"]
    return [*failed, *begun, *absent] or ["Every trial of the grid was run to its end."]


def _trials(report: Report) -> Table:
    """Every trial."""
    names = ("setup_time_s", "step_time_s", "train_time_s", "tokens")
    rows = [
        [row["id"], row["status"]]
        + [number(row[name]) for name in names]
        + [_percent(row["padding_share"])]
        + [number(row[name]) for name in ("peak_host_memory_gib", "energy_wh")]
        + [number(row["quality"].get(f"{name}/MAP")) for name in SETTINGS]
        for row in in_order(report.rows)
        if row["status"] != "absent"
    ]
    head = ["trial", "status", "set-up, s", "step, s", "training, s", "tokens", "padding", "host, GiB", "energy, Wh"]
    return Table("All trials", [*head, *(f"MAP {name}" for name in SETTINGS.values())], rows, texts=(0, 1))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


# Data, methods, limits


def _data(report: Report) -> list[str]:
    found = []
    for name, use in {"train": "Trained on", "eval": "Evaluated on"}.items():
        corpus = report.study["corpus"][name]
        items = corpus["items_per_language"].values()
        size = f"{min(items):,}" if min(items) == max(items) else f"{min(items):,} to {max(items):,}"
        found.append(
            f"{use} {corpus_name(corpus['source'])}: {size} items of each of {len(items)} languages; license: "
            f"{corpus['license'] or 'not stated'}; fingerprint {corpus['fingerprint']}."
        )
    return [
        *found,
        f"Languages of the evaluation, the same for all trials: {', '.join(report.study['eval_languages'])}.",
    ]


def _languages(report: Report) -> Table:
    """In the order in which they are added."""
    corpora, tokens = report.study["corpus"], report.study["tokens"]
    largest = max(report.study["language_sets"].values(), key=len)
    codes = dict.fromkeys([*largest, *corpora["eval"]["items_per_language"]])
    rows = [
        [code, *own_name(code), find_script(code)]
        + [corpora[name]["items_per_language"].get(code) for name in ("train", "eval")]
        + [number(at(tokens, code, "tokens_per_text")), number(at(tokens, code, "premium"))]
        for code in codes
    ]
    head = ["code", "name", "own name", "script", "to train on", "to evaluate on", "tokens per text", "premium"]
    about = "Premium: tokens over those of English, on the same items (Petrov et al. 2023)."
    return Table(f"The languages, in the order in which they are added. {about}", head, rows, texts=(0, 1, 2, 3))


def own_name(code: str) -> tuple[str, str]:
    """The English name of a language and its own; its code where it has none in Unicode CLDR.

    Example:

        >>> own_name("de"), own_name("he"), own_name("tlh")
        (('German', 'Deutsch'), ('Hebrew', 'עברית'), ('tlh', 'tlh'))
    """
    from babel import Locale, UnknownLocaleError

    try:
        locale = Locale.parse(code, sep="-")
    except (UnknownLocaleError, ValueError):
        return code, code
    return locale.get_display_name("en") or code, locale.get_display_name() or code


def _arms(report: Report) -> Table:
    rows = [[NAMES[arm], ARMS[arm].text] for arm in NAMES if arm in report.study["arms"]]
    return Table("Arms: ways to get a retriever", ["arm", "what it is"], rows, texts=(0, 1), long=(1,))


def _methods(report: Report) -> list[str]:
    study = report.study
    target = study["budget"].get("target")
    found = [
        f"Sets of languages are nested: a trial with L has the first L of {', '.join(study['language_order'])}.",
        f"Budget: {_budget(report)}.",
        "All trials of a seed begin with the same model, and are evaluated on the same queries and passages: of every "
        "query language against every passage language, and against the passages of all languages together.",
        "Each trial is a process of its own, whose times, peaks of memory and tokens its run folder tells.",
        "A law (a line or a power of L) is fitted to each seed, and chosen by its error at a held-out L.",
    ]
    if target:
        found.append(
            f"The target is {target['measure']} = {target['value']}; its cost is read off between two points."
        )
    return found


def _settings(report: Report) -> Table:
    study = report.study
    names = dict.fromkeys([*study["train_settings"], *study["mlm_settings"]])
    rows = [[name, *(_brief(study[of].get(name)) for of in ("train_settings", "mlm_settings"))] for name in names]
    return Table("Settings that all trials begin with", ["setting", "contrastive", "MLM"], rows, texts=(0, 1, 2))


def _brief(value: Any) -> str | None:
    return None if value is None else str(value)


def _limits(report: Report) -> list[str]:
    seeds, base = len(report.seeds), report.study["base"]
    trained = [row for row in report.rows if row["stages"]]
    several = f"{seeds} seeds, one corpus, one order of languages, one machine: intervals are over seeds alone."
    found = [several if seeds > 1 else "One seed: there are no intervals, and no difference follows."]
    found.append("Each interval holds by itself; of many, some miss by chance.")
    if not report.study["environment"].get("devices"):
        found.append("Everything ran on a CPU: step times say nothing of GPUs, where small batches leave room.")
    if all(row["peak_device_memory_gib"] is None for row in trained):
        found.append("No device memory was measured; memory is that of processes on the host.")
    sources = sorted({row["energy_source"] or "none" for row in trained})
    found.append(f"Source of the energy: {', '.join(sources)}; codecarbon estimates, and nvml leaves the host out.")
    if base.get("model_name_or_path") is None:
        found.append("The models are small and from scratch; large pre-trained ones may behave otherwise.")
    return found


_COLUMNS = {
    "step_time_s": "step, s",
    "train_time_s": "training, s",
    "target/train_time_s": "to the target, s",
    "peak_device_memory_gib": "device, GiB",
    "peak_host_memory_gib": "host, GiB",
    "energy_wh": "energy, Wh",
    **{f"{name}/MAP": f"MAP {title}" for name, title in SETTINGS.items()},
    "bias/rank_distance": "rank distance",
}


_BEST, _RANK_DISTANCE = "multilingual/MAP", "bias/rank_distance"  # the quality that the answer is about, and the bias


_NOTHING = (
    "Nothing can be said of hybrid batches: no such trial has finished at two numbers of languages, nor at one "
    "where mono or mlm_hybrid has."
)


class Table(NamedTuple):
    """Columns with their heads.

    Args:
        title (`str`): What it shows.
        head (`Sequence[str]`): A head a column.
        rows (`Sequence[Sequence]`): Trials: a text, a number as text, None, or `text` and `small` below it.
        texts (`Sequence[int]`, *optional*): Columns of text, which stand at the start of their trials.
        long (`Sequence[int]`, *optional*): Those of them whose lines are broken.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    texts: Sequence[int] = (0,)
    long: Sequence[int] = ()


def answer(report: Report) -> list[str]:
    """Return the answer: growth of training costs with languages, and the comparison with mBERT-style training.

    Args:
        report (`Report`): Of a study.

    Returns:
        `list[str]`: Three sentences, or as many as the study's arms say something about; one about hybrid beside
            monolingual batches where there is nothing else to say.
    """
    fits, pair, memory = report.fits, "hybrid/mlm_hybrid", _memory(report)
    time = "step_time_s" if report.study["budget"]["type"] == "time" else "train_time_s"
    growth = {name: at(fits, "growth", name, "hybrid", "sentence") for name in (time, memory, _BEST)}
    cost = "target/train_time_s" if at(fits, "ratios", "target/train_time_s", pair) else time
    against = [_ratio(at(fits, "ratios", name, pair)) for name in (cost, memory)]
    if cost.startswith("target/") and (aim := report.study["budget"]["target"]):
        against.append(f"the target is {aim['measure']} = {aim['value']:g}")
    better = [found["sentence"] for found in (at(fits, "differences", _BEST, pair) or [])[-1:]]  # at the largest L
    found = [
        _joined("With hybrid batches, ", [growth[time], growth[memory]]),
        _joined("Against mBERT-style pre-training with the same fine-tuning (mlm_hybrid), ", against),
        _joined("With hybrid batches, ", [growth[_BEST], *better]),
    ]
    return [text for text in found if text] or [_beside_mono(fits, time) or _NOTHING]


def _beside_mono(fits: dict[str, Any], time: str) -> str | None:
    """Compare hybrid batches with another arm at the largest L that both have."""
    pair, against = "hybrid/mono", []
    if costs := at(fits, "ratios", time, pair):
        largest = str(costs["languages"][-1])
        against.append(f"at L = {largest}, {costs['by_languages'][largest]['sentence']}")
    for name in (_BEST, _RANK_DISTANCE):
        against += [found["sentence"] for found in (at(fits, "differences", name, pair) or [])[-1:]]
    return _joined("Against monolingual batches (mono), ", against)


def _ratio(found: dict[str, Any] | None) -> str | None:
    """Over all L; where a run did not reach its target at one, at the largest."""
    if not found:
        return None
    largest = str(found["languages"][-1])
    if found["all"]["ratio"] is None and (at_largest := found["by_languages"][largest])["ratio"] is not None:
        return f"at L = {largest}, {at_largest['sentence']}"
    return str(found["all"]["sentence"])


def _memory(report: Report) -> str:
    name = "peak_device_memory_gib"
    return name if at(report.fits, "growth", name, "hybrid") else "peak_host_memory_gib"


def _joined(start: str, sentences: Iterable[str | None]) -> str | None:
    known = [found.removesuffix(".") for found in sentences if found]
    return f"{start}{'; '.join(known)}." if known else None


def laws(report: Report, quantities: Iterable[str], name: str) -> list[Table]:
    """Return a table of the sentences of some quantities; nothing if there are none."""
    rows = []
    for quantity in quantities:
        for arm, found in (at(report.fits, "growth", quantity) or {}).items():
            rows.append([NAMES[arm], found["sentence"]])
        for pair, found in (at(report.fits, "ratios", quantity) or {}).items():
            rows += [[_versus(pair), found["all"]["sentence"]]] if found else []
        for pair, found in (at(report.fits, "differences", quantity) or {}).items():
            rows += [[_versus(pair), one["sentence"]] for one in found]
    return [Table(f"{name}, in words", ["arm", "what its interval allows to say"], rows, (0, 1), (1,))] if rows else []


def _versus(pair: str) -> str:
    return " / ".join(NAMES[arm] for arm in pair.split("/"))


def how_to_read(report: Report) -> list[str]:
    """Explain the intervals and what is claimed."""
    return [
        f"Intervals are of {report.fits['level']:.0%}, Student's over {len(report.seeds)} seeds: they say what other "
        "seeds would give, and nothing of other languages, corpora or machines. A difference is claimed only where "
        "the whole interval lies on one side of none."
    ]


def main_table(report: Report) -> Table:
    """A row for each arm and L, with time, memory, quality and bias.

    Args:
        report (`Report`): Of a study.
    """
    columns = {name: _by_place(growth_rows(report, name)) for name in _COLUMNS}
    columns = {name: found for name, found in columns.items() if found}
    points = list(dict.fromkeys((row["arm"], row["num_languages"]) for row in in_order(report.rows)))
    rows = [
        [NAMES[arm], count or "–", *(_with_interval(found.get((arm, count))) for found in columns.values())]
        for arm, count in points
        if any((arm, count) in found for found in columns.values())
    ]
    about = f"Means over {len(report.seeds)} seeds, with intervals of {report.fits['level']:.0%}."
    return Table(about, ["arm", "L", *(_COLUMNS[name] for name in columns)], rows)


def _by_place(rows: Iterable[Row]) -> dict[tuple[str, int], Row]:
    return {(row["arm"], row["languages"] or 0): row for row in rows}


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows of trials by arm, number of languages and seed."""
    arms = list(NAMES)
    return sorted(rows, key=lambda row: (arms.index(row["arm"]), row["num_languages"], str(row["seed"])))


def _with_interval(row: Row | None) -> Any:
    if row is None or (row["mean"] is None and not row["not_reached"]):
        return None
    if row["mean"] is None:
        return {"text": "not reached", "small": f"{row['not_reached']} of {row['not_reached'] + row['seeds']} runs"}
    ends = f"{number(row['low'])} to {number(row['high'])}" if row["low"] is not None else ""
    return {"text": number(row["mean"]), "small": ends}


def number(value: float | None) -> str:
    """Three digits that count, and whole numbers from 1,000 on.

    Example:

        >>> number(0.123456), number(12345.6), number(0.5), number(None)
        ('0.123', '12,346', '0.5', '–')
    """
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
