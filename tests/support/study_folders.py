"""Studies as recipes/scale.py leaves them, with made-up figures in the files that the real writers write."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_hybrid.records.resources import empty_line
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import Resources, Scores
from hf_hybrid.scaling.grid.arms import ARMS, Shared, Stage, Trial, build_grid, build_stages, make_budget_key
from hf_hybrid.scaling.grid.fits import make_fits
from hf_hybrid.scaling.grid.folder import Study, StudyFolder
from hf_hybrid.scaling.grid.table import make_table
from tests.support.card_runs import make_run

LANGUAGES = ("en", "ar", "de", "ja", "he", "pt-BR", "zh-Hant", "hi")  # two of them are written from right to left
TARGET = {"measure": "multilingual/MAP", "value": 0.3}
# Of each arm: time of a step at L = 1; monolingual, cross-lingual and multilingual MAP; rank distance.
_MADE_UP = {
    "zero_shot": (0.0, 0.25, 0.05, 0.06, 700),
    "bm25": (0.0, 0.60, 0.08, 0.10, 650),
    "english": (0.050, 0.45, 0.10, 0.12, 600),
    "mono": (0.050, 0.85, 0.15, 0.30, 480),
    "cross": (0.052, 0.65, 0.45, 0.36, 260),
    "hybrid": (0.051, 0.80, 0.40, 0.44, 300),
    "pool": (0.060, 0.70, 0.42, 0.46, 220),
    "mono_cross_pool": (0.055, 0.78, 0.43, 0.45, 250),
    "mixed": (0.051, 0.72, 0.35, 0.33, 350),
    "mlm": (0.080, 0.30, 0.06, 0.08, 690),
    "mlm_hybrid": (0.051, 0.81, 0.41, 0.43, 290),
}
_STEPS, _TOKENS_PER_STEP = 100, 900


def write_study(
    path: Path,
    counts: Sequence[int] = (1, 2, 8),
    seeds: Sequence[int] = (1, 2, 3),
    arms: Sequence[str] = tuple(ARMS),
    failed: Mapping[str, str] | None = None,
    **changes: Any,
) -> StudyFolder:
    """A study that was run and collected.

    Args:
        path (`Path`): Its folder.
        counts, seeds, arms: The grid.
        failed (`Mapping[str, str]`, *optional*): Trials that failed, with the last line of their log.
        changes: Replace what `study.json` has.
    """
    folder, study = StudyFolder(path), {**make_study(counts, seeds, arms), **changes}
    folder.write("study.json", study)
    for number, trial in enumerate(study["trials"]):
        if trial["id"] in (failed or {}):
            folder.write_failure(trial, {"stage": "train", "returncode": 1, "last_line": (failed or {})[trial["id"]]})
        else:
            write_trial(folder, trial, study["eval_languages"], np.random.default_rng(number))
    collect(folder)
    return folder


def collect(folder: StudyFolder) -> None:
    """Write what follows from the trials."""
    study = folder.read("study.json")
    table = make_table(folder, study)
    folder.write("table.json", table)
    folder.write("fits.json", make_fits(study, table))


def make_study(counts: Sequence[int], seeds: Sequence[int], arms: Sequence[str]) -> Study:
    """From scratch, for so many steps."""
    sets = {count: list(LANGUAGES[:count]) for count in counts}
    trials, absent = build_grid(arms, sets, seeds, LANGUAGES, from_scratch=True)
    keys = {
        make_budget_key(trial["arm"], trial["num_languages"]): _STEPS for trial in trials if ARMS[trial["arm"]].trains
    }
    shared = Shared({}, {}, None, None, own_cache=False)
    trials = [{**trial, "stages": build_stages(trial, shared, keys, keys)} for trial in trials]
    languages = list(LANGUAGES[: max(counts)])
    corpus = {
        "items_per_language": dict.fromkeys(languages, 400),
        "license": "unicode-3.0",
        "source": {"path": "a made-up corpus"},
    }
    how = "the same steps for all trials; masked language modeling for as many tokens as hybrid batches"
    return {
        "language_order": list(LANGUAGES),
        "language_sets": {str(count): found for count, found in sets.items()},
        "eval_languages": languages,
        "arms": list(arms),
        "seeds": list(seeds),
        "budget": {"type": "steps", "value": _STEPS, "target": TARGET, "steps": keys, "mlm_steps": keys, "how": how},
        "eval_every": None,
        "train_settings": {"learning_rate": 0.001, "global_batch_size": 64},
        "mlm_settings": {"learning_rate": 0.001},
        "corpus": {"train": {**corpus, "fingerprint": "a" * 64}, "eval": {**corpus, "fingerprint": "b" * 64}},
        "base": {"model_name_or_path": None, "scratch_hidden_size": 128, "scratch_num_layers": 2},
        "tokens": {
            code: {"texts": 400, "tokens_per_text": 9.0 + n, "tokens_per_character": 0.3, "premium": 1 + n / 8}
            for n, code in enumerate(languages)
        },
        "environment": {"versions": {"torch": "2.13.0"}, "python": "3.11.7", "devices": []},
        "trials": trials,
        "absent": absent,
    }


def write_trial(folder: StudyFolder, trial: Trial, languages: Sequence[str], rng: np.random.Generator) -> None:
    """What the stages of a trial leave."""
    for stage in trial["stages"]:
        run = RunFolder(folder.stage_path(stage))
        scores = make_scores(trial, stage, languages, rng)
        run.write_eval({"before": None, "after": scores, "evaluated": {}})
        if stage["name"] != "eval":
            _write_training(run, trial, stage, scores, rng)


def _write_training(run: RunFolder, trial: Trial, stage: Stage, scores: Scores, rng: np.random.Generator) -> None:
    run.write_run(make_run(trial["languages"], trial["id"]))
    step_s = _MADE_UP["mlm" if stage["name"] == "mlm" else trial["arm"]][0]
    step_s *= (1 + 0.1 * math.log2(trial["num_languages"])) * (1 + 0.02 * rng.standard_normal())
    time_s, tokens = step_s * _STEPS, _TOKENS_PER_STEP * _STEPS
    for share in (0.5, 1.0):
        run.append_resource_line(
            {
                **empty_line(round(share * _STEPS)),
                "time_s": time_s / 2,
                "pairs": 32 * _STEPS,
                "tokens": tokens // 2,
                "loss": 2.0 - share,
                "data_wait_s": 0.01,
                "host_memory_gib": 0.7,
                "energy_wh": time_s / 200,
                "energy_source": "codecarbon",
            }
        )
        reached = {f"multilingual/{name}": value * share for name, value in scores["multilingual"].items()}
        run.append_curve_line(
            {
                "step": round(share * _STEPS),
                "train_time_s": share * time_s,
                "tokens": round(share * tokens),
                "energy_wh": share * time_s / 100,
                "measures": reached,
            }
        )
    run.write_resources(make_resources(time_s, tokens, trial["num_languages"], rng))


def make_resources(time_s: float, tokens: int, num_languages: int, rng: np.random.Generator) -> Resources:
    """As of a CPU."""
    return {
        "train_time_s": time_s,
        "setup_time_s": 3.0 + 0.2 * num_languages + 0.1 * float(rng.random()),
        "num_steps": _STEPS,
        "num_pairs": 64 * _STEPS,
        "tokens": tokens,
        "padding_tokens": 0,
        "pairs_per_s": 64 * _STEPS / time_s,
        "tokens_per_s": tokens / time_s,
        "flops": 1e12,
        "flops_formula": "made up",
        "flops_terms": None,
        "mfu": None,
        "peak_device_memory_gib": None,
        "peak_host_memory_gib": [0.7 + 0.01 * num_languages + 0.005 * float(rng.random())],
        "energy_wh": time_s / 100,
        "energy_source": "codecarbon",
        "per_language": {},
        "per_language_pair": {},
        "bytes_sent": None,
    }


def make_scores(trial: Trial, stage: Stage, languages: Sequence[str], rng: np.random.Generator) -> Scores:
    """Better where a language was trained on."""
    _, mono, cross, multi, distance = _MADE_UP["mlm" if stage["name"] == "mlm" else trial["arm"]]
    share = len(set(trial["languages"]) & set(languages)) / len(languages) if trial["languages"] else 1.0

    def value(level: float, known: float = share) -> float:
        return level * (0.4 + 0.6 * known) * (1 + 0.03 * float(rng.standard_normal()))

    def both(query: str, passage: str) -> float:
        return 1.0 if not trial["languages"] or {query, passage} <= set(trial["languages"]) else 0.0

    return {
        "monolingual": {"MAP": value(mono)},
        "cross_lingual": {"MAP": value(cross)},
        "multilingual": {"MAP": value(multi)},
        "bias": {"rank_distance": distance * (2 - share) + float(rng.random()), "same_language_share@10": value(0.5)},
        "pairs": {
            f"{query}-{passage}": {"MAP": value(mono if query == passage else cross, both(query, passage))}
            for query in languages
            for passage in languages
        },
        "num_queries": 50 * len(languages),
    }
