"""The grid of a study, its sweep, its table and its fits. Only the tests of the curve train."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_hybrid.commands.eval import EvaluationArguments
from hf_hybrid.data.sources.sample import build_sample_corpus
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.scaling.grid.arguments import StudyArguments
from hf_hybrid.scaling.grid.arms import (
    ARMS,
    Shared,
    Target,
    Trial,
    build_command,
    build_grid,
    build_stages,
    find_changed_trial,
    find_script,
    make_budget_key,
    nest_languages,
    order_languages,
    select_trials,
)
from hf_hybrid.scaling.grid.fits import collect_values, make_fits
from hf_hybrid.scaling.grid.folder import StudyFolder
from hf_hybrid.scaling.grid.growth import NOT_REACHED
from hf_hybrid.scaling.grid.sweep import Sweep
from hf_hybrid.scaling.grid.table import NO_COSTS, Point, build_curve, compute_target_cost, format_table, make_table
from hf_hybrid.scaling.planner.hardware import hardware_of_run
from hf_hybrid.scaling.planner.measured_runs import read_measured
from hf_hybrid.scaling.planner.planner import PlanArguments, build_workload, plan_from_study, prediction_table
from hf_hybrid.training.arguments import (
    DataArguments,
    EncoderArguments,
    HybridTrainingArguments,
    MlmTrainingArguments,
    ModelArguments,
)
from hf_hybrid.training.interruption import LOCK_NAME, Interrupted
from hf_hybrid.utils.options import find_settings, parse_arguments
from tests.support.planned_runs import write_run_folder
from tests.support.toy_runs import At, Kill, kill, toy_trainer
from tests.support.toys import toy_corpus

SETS = {1: ["de"], 2: ["de", "en"], 4: ["de", "en", "ru", "zh"]}
SHARED = Shared({"train_corpus": "sample"}, {"corpus": "sample"}, None, 5, True)


def full_grid(seeds: tuple[int, ...] = (1, 2)) -> tuple[list[Trial], list[Any]]:
    trials, absent = build_grid(list(ARMS), SETS, seeds, SETS[4], True)
    steps = {make_budget_key(trial["arm"], trial["num_languages"]): 20 for trial in trials}
    return [{**trial, "stages": build_stages(trial, SHARED, steps, steps)} for trial in trials], absent


class TestGrid:
    def test_the_grid_has_every_possible_trial(self) -> None:
        trials, absent = full_grid()
        ids = [trial["id"] for trial in trials]
        assert len(set(ids)) == len(ids)
        per_arm = {arm: [trial for trial in trials if trial["arm"] == arm] for arm in ARMS}
        once = {"zero_shot": 2, "bm25": 1, "english": 2, "mono": 6, "mlm": 6}
        assert {arm: len(found) for arm, found in per_arm.items()} == {arm: once.get(arm, 4) for arm in ARMS}
        assert {gap["id"] for gap in absent} == {f"{arm}-L1" for arm in ARMS if ARMS[arm].least == 2}
        assert per_arm["english"][0]["languages"] == ["en"] != per_arm["mono"][0]["languages"]
        assert {"zero_shot-seed2", "bm25", "english-L1-seed1", "hybrid-L4-seed1"} <= set(ids)

    def test_a_checkpoint_is_evaluated_once(self) -> None:
        trials, _ = build_grid(["zero_shot", "bm25"], SETS, [1, 2, 3], ["de"], False)
        assert [(trial["id"], trial["seed"]) for trial in trials] == [("zero_shot", None), ("bm25", None)]

    def test_without_english_that_arm_is_absent(self) -> None:
        trials, absent = build_grid(["english"], {1: ["de"]}, [1], ["de", "ru"], True)
        assert (trials, absent[0]["reason"]) == ([], "the training corpus has no en")

    def test_sets_are_nested_in_each_order(self) -> None:
        sizes = dict(zip(["ar", "de", "en", "es", "ru", "uk", "zh"], [5, 9, 8, 9, 7, 6, 4], strict=True))
        orders = {order: order_languages(order, sizes) for order in ("size", "scripts", "zh,ar,de")}
        assert orders["size"] == ["de", "es", "en", "ru", "uk", "ar", "zh"]
        assert orders["scripts"] == ["de", "ru", "ar", "zh", "es", "uk", "en"]
        assert len({find_script(code) for code in orders["scripts"][:4]}) == 4 > 1
        assert orders["zh,ar,de"] == ["zh", "ar", "de"]
        for order in orders.values():
            sets = nest_languages(order, [1, 2, 3])
            assert all(sets[n + 1][:n] == sets[n] for n in (1, 2))
        with pytest.raises(ValueError, match="languages: got 4, but the order has only 3: zh, ar, de"):
            nest_languages(orders["zh,ar,de"], [1, 4])
        with pytest.raises(ValueError, match="the corpus has no 'fr'"):
            order_languages("fr,de", sizes)

    def test_a_stage_starts_from_the_model_of_the_stage_before(self) -> None:
        trials = {trial["id"]: trial for trial in full_grid()[0]}
        first, second = trials["mlm_hybrid-L2-seed2"]["stages"]
        assert (first["recipe"], second["recipe"]) == ("mlm.py", "train.py")
        assert first["options"]["model_name_or_path"] == "{study}/base/seed-2"
        assert second["options"]["model_name_or_path"] == f"{first['options']['output_dir']}/model"
        assert first["folder"] != second["folder"]
        (hybrid,) = trials["hybrid-L2-seed2"]["stages"]
        same = ("mix", "languages", "seed", "max_steps", "eval_steps", "evaluate_before")
        assert {name: hybrid["options"][name] for name in same} == {name: second["options"][name] for name in same}
        (untrained,) = trials["zero_shot-seed2"]["stages"]
        assert untrained["options"]["model"] == hybrid["options"]["model_name_or_path"]

    def test_the_commands_accept_every_option(self, tmp_path: Path) -> None:
        for name in ("train", "mlm"):
            (tmp_path / "configs").mkdir(exist_ok=True)
            (tmp_path / "configs" / f"{name}.yaml").write_text("use_cpu: true\n")
        classes: dict[str, list[Any]] = {
            "train.py": [ModelArguments, DataArguments, HybridTrainingArguments],
            "mlm.py": [EncoderArguments, DataArguments, MlmTrainingArguments],
            "eval.py": [EvaluationArguments],
        }
        seen = set()
        for trial in full_grid((1,))[0]:
            for stage in trial["stages"]:
                words = build_command(stage, str(tmp_path), ["python"])
                assert words[:4] == ["python", "-m", "hf_hybrid", stage["recipe"].removesuffix(".py")]
                assert "{study}" not in " ".join(words)
                found = parse_arguments(classes[stage["recipe"]], words[4:])
                seen.add(stage["recipe"])
                if stage["recipe"] == "train.py":
                    assert (found[2].mix, found[2].max_steps) == (stage["options"]["mix"], 20)
                    assert found[1].languages == ",".join(trial["languages"])
        assert seen == set(classes)

    def test_a_study_may_gain_trials_but_not_change_them(self) -> None:
        trials = full_grid((1, 2))[0]
        fewer = full_grid((1,))[0]
        assert find_changed_trial(fewer, trials) is None
        assert "this command has no" in str(find_changed_trial(trials, fewer))
        changed = json.loads(json.dumps(fewer).replace('"max_steps": "20"', '"max_steps": "30"'))
        assert "max_steps was 20 and is 30" in str(find_changed_trial(fewer, changed))

    def test_patterns_and_numbers_select_trials(self) -> None:
        trials = full_grid()[0]
        assert [trial["id"] for trial in select_trials(trials, "bm25,hybrid-L4-*", None)] == [
            "bm25",
            "hybrid-L4-seed1",
            "hybrid-L4-seed2",
        ]
        assert select_trials(trials, None, 3) == [trials[3]]
        with pytest.raises(ValueError, match=r"The trials are zero_shot-seed1, .* and \d+ more; see --list"):
            select_trials(trials, "hybird-*", None)
        for only, number in (("nothing-*", None), (None, len(trials)), ("bm25", 0)):
            with pytest.raises(ValueError, match="trial"):
                select_trials(trials, only, number)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": "1,two"}, "languages: 'two'"),
        ({"languages": ""}, "languages: got ''. Give at least one"),
        ({"arms": "hybrid,hybird"}, "arms: 'hybird' is not known"),
        ({"seeds": "0"}, "seed"),
        ({"budget": "money"}, "budget='money'"),
        ({"budget_value": "-3"}, "budget_value"),
        ({"budget": "time"}, "budget=time: say how much"),
        ({"budget": "target_quality"}, "give the target as budget_value"),
        ({"budget": "target_quality", "budget_value": "0.5"}, "write it as in multilingual/MAP=0.5"),
        ({"target": "MAP=0.5"}, "write it as in"),
        ({"jobs": 0}, "jobs must be between 1 and 10,000, got 0"),
        ({"study_dir": " "}, "name a folder"),
    ],
)
def test_mistakes_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudyArguments(**options)


def test_seeds_are_a_number_or_a_list() -> None:
    assert StudyArguments(seeds="3").seed_list == [1, 2, 3]
    assert StudyArguments(seeds="7,5").seed_list == [5, 7]
    assert StudyArguments(seeds="7,").seed_list == [7]
    for words in (["--train_options", "--bf16 true"], ["--train_options=--bf16 true"]):
        assert parse_arguments([StudyArguments], words)[0].read_options("train_options") == {"bf16": "true"}
    with pytest.raises(ValueError, match="expected --option value"):
        StudyArguments(train_options="max_steps 3").read_options("train_options")


def test_the_grid_of_the_shipped_study() -> None:
    (study, _) = parse_arguments([StudyArguments], ["--config", "sample/study"])
    corpus = build_sample_corpus()
    order = order_languages(study.order, dict.fromkeys(corpus.languages, 1))
    sets = nest_languages(order, study.counts)
    assert list(sets) == [1, 2, 4, 8, 16]
    assert sets[1] != ["en"]
    trials, absent = build_grid(study.arm_list, sets, study.seed_list, corpus.languages, True)
    trained = 3 * (5 * 2 + 4 * 6 + 1)  # mono and mlm at five L, six arms at four, english
    assert len(trials) == trained + 3 + 1
    assert len(absent) == 6
    for name in (study.train_config, study.mlm_config):
        assert find_settings(name).exists()


# Sweep


FAKE = """
    import json, os, signal, sys, time
    assert sys.argv[1:4] == ["-m", "hf_hybrid", "eval"]
    options = dict(zip(sys.argv[4::2], sys.argv[5::2]))
    folder = options["--output_dir"]
    os.makedirs(folder, exist_ok=True)
    with open(folder + "/calls", "a") as file:
        print(os.environ["OMP_NUM_THREADS"], file=file)
    def told(number, frame):
        open(folder + "/saved", "w").close()
        sys.exit(75)
    signal.signal(signal.SIGTERM, told)
    do = options.get("--do", "")
    if do == "fail":
        print("Traceback ...\\nValueError: no such thing", flush=True)
        sys.exit(3)
    if do == "die":
        print("half a word", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "wait" and not os.path.exists(folder + "/saved"):
        open(folder + "/waiting", "w").close()
        time.sleep(60)
    scores = {"monolingual": {}, "cross_lingual": {}, "multilingual": {}, "bias": {}, "pairs": {}, "num_queries": 1}
    form = {"name": "hf_hybrid run folder", "version": 2}
    json.dump({"format": form, "before": None, "after": scores, "evaluated": {}}, open(folder + "/eval.json", "w"))
"""


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    (tmp_path / "fake.py").write_text(textwrap.dedent(FAKE))
    return StudyFolder(tmp_path / "study")


def fake_trial(name: str, do: str) -> Trial:
    options = {"output_dir": f"{{study}}/trials/{name}", **({"do": do} if do else {})}
    stage: Any = {"name": "eval", "recipe": "eval.py", "folder": options["output_dir"], "options": options}
    return {"id": name, "arm": "zero_shot", "num_languages": 0, "languages": [], "seed": 1, "stages": [stage]}


def sweep_of(folder: StudyFolder, said: list[str] | None = None, **options: Any) -> Sweep:
    say: Callable[[str], Any] = (said if said is not None else []).append
    return Sweep(folder, [sys.executable, "-S", str(folder.path.parent / "fake.py")], say=say, **options)


def calls(folder: StudyFolder, trial: Trial) -> list[str]:
    path = folder.trial_path(trial) / "calls"
    return path.read_text().split() if path.exists() else []


def wait_until(ready: Callable[[], bool]) -> None:
    for _ in range(600):
        if ready():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within 30 s")


class TestSweep:
    def test_a_failure_is_reported_and_the_other_trials_run(self, folder: StudyFolder) -> None:
        trials = [fake_trial("a", ""), fake_trial("b", "fail"), fake_trial("c", "die"), fake_trial("d", "")]
        said: list[str] = []
        status = sweep_of(folder, said, jobs=2, threads=3).run(trials)
        assert status == {"a": "finished", "b": "failed", "c": "failed", "d": "finished"}
        assert folder.read_failure(trials[1])["last_line"] == "ValueError: no such thing"
        assert folder.read_failure(trials[1])["returncode"] == 3
        assert folder.read_failure(trials[2])["last_line"] == "killed by signal 9 after: half a word"
        assert "b failed: ValueError: no such thing" in "\n".join(said)
        assert calls(folder, trials[0]) == ["3"]
        # a second sweep runs nothing, unless failed trials are retried
        assert sweep_of(folder).run(trials) == status
        assert [len(calls(folder, trial)) for trial in trials] == [1, 1, 1, 1]
        trials[1] = fake_trial("b", "")
        assert sweep_of(folder).run(trials, retry_failed=True)["b"] == "finished"
        assert [len(calls(folder, trial)) for trial in trials] == [1, 2, 2, 1]
        assert not (folder.trial_path(trials[1]) / "failure.json").exists()

    def test_a_signal_is_passed_on_and_the_next_sweep_resumes(self, folder: StudyFolder) -> None:
        trials = [fake_trial("a", "wait"), fake_trial("b", "")]
        waiting = folder.trial_path(trials[0]) / "waiting"

        def interrupt() -> None:
            wait_until(waiting.exists)
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=interrupt)
        former = signal.getsignal(signal.SIGTERM)
        thread.start()
        try:
            with pytest.raises(Interrupted):
                sweep_of(folder).run(trials)
        finally:
            thread.join()
            signal.signal(signal.SIGTERM, former)
            signal.signal(signal.SIGINT, signal.default_int_handler)
        assert (folder.trial_path(trials[0]) / "saved").exists()
        assert [folder.status(trial) for trial in trials] == ["missing", "missing"]
        assert calls(folder, trials[1]) == [], "no trial starts after the signal"
        assert sweep_of(folder).run(trials) == {"a": "finished", "b": "finished"}

    def test_a_sweep_waits_for_the_trials_of_a_killed_sweep(self, folder: StudyFolder) -> None:
        trial = fake_trial("a", "")
        path = folder.trial_path(trial)
        folder.open_trial(trial).claim(LOCK_NAME)
        held, free = path / "held", path / "free"
        code = f"""
            import os, sys, time
            from filelock import FileLock
            with FileLock({str(path / LOCK_NAME)!r}):
                open({str(held)!r}, "w").close()
                while not os.path.exists({str(free)!r}):
                    time.sleep(0.05)
        """
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
        wait_until(held.exists)
        thread = threading.Timer(1.5, free.touch)
        thread.start()
        began = time.monotonic()
        try:
            assert sweep_of(folder).run([trial]) == {"a": "finished"}
        finally:
            thread.join()
            process.wait()
        assert time.monotonic() - began > 1.4

    def test_only_what_a_study_wrote_is_deleted(self, folder: StudyFolder) -> None:
        for name in ("trials/a/x", "mine/y"):
            (folder.path / name).parent.mkdir(parents=True)
            (folder.path / name).touch()
        folder.write("study.json", {})
        with folder.outputs.open_nested("trials/a").writing("eval.json") as unfinished:
            unfinished.touch()
        folder.outputs.delete_all()
        left = {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_file()}
        assert left == {"trials/a/x", "mine/y"}


# Table and fits


def point(step: float, value: float, time_s: float = 0.0, energy_wh: float | None = None) -> Point:
    return Point(
        step, time_s or step / 2, 100 * step, energy_wh, {"multilingual/MAP": value, "bias/rank_distance": 9 - value}
    )


class TestCostToTarget:
    def test_the_cost_is_interpolated(self) -> None:
        points = [point(0, 0.1), point(10, 0.3), point(20, 0.5), point(30, 0.4)]
        found = compute_target_cost(points, Target("multilingual/MAP", 0.35))
        assert (found["reached"], found["at_most"]) == (True, False)
        assert found["step"] == pytest.approx(12.5)
        assert found["train_time_s"] == pytest.approx(6.25)
        assert found["tokens"] == pytest.approx(1250)
        assert found["energy_wh"] is None

    def test_a_missed_target_has_no_cost(self) -> None:
        found = compute_target_cost([point(0, 0.1), point(10, 0.3)], Target("multilingual/MAP", 0.31))
        assert not found["reached"]
        assert [found[name] for name in ("step", "train_time_s", "tokens")] == [None] * 3

    def test_a_target_reached_at_the_first_point_has_an_upper_bound(self) -> None:
        found = compute_target_cost([point(10, 0.3), point(20, 0.4)], Target("multilingual/MAP", 0.2))
        assert (found["reached"], found["at_most"], found["step"]) == (True, True, 10)

    def test_a_lower_bias_reaches_the_target(self) -> None:
        found = compute_target_cost([point(0, 1), point(10, 3)], Target("bias/rank_distance", 7))
        assert found["step"] == pytest.approx(5)

    def test_a_second_stage_begins_where_the_first_ended(self, tmp_path: Path) -> None:
        line: Any = {"step": 4, "train_time_s": 2.0, "tokens": 40, "energy_wh": 1.0}
        totals = {"num_steps": 8, "train_time_s": 4.0, "tokens": 80, "energy_wh": 2.0}
        runs: list[RunFolder] = []
        for name, quality in {"first": 0.2, "second": 0.4}.items():
            runs.append(run := RunFolder(tmp_path / name))
            line["measures"] = {"multilingual/MAP": quality}
            run.append_curve_line(line)
            scores: Any = {"monolingual": {}, "cross_lingual": {}, "bias": {}, "pairs": {}, "num_queries": 1}
            scores["multilingual"] = {"MAP": quality + 0.2}
            run.write_eval({"before": None, "after": scores, "evaluated": {}})
            run.read_resources = lambda: totals  # type: ignore[method-assign, assignment, return-value]
        points = build_curve(runs, {"multilingual/MAP": 0.1})
        assert [tuple(found)[:4] for found in points] == [
            (0, 0.0, 0, 0.0),
            (4, 2.0, 40, 1.0),
            (8, 4.0, 80, 2.0),
            (12, 6.0, 120, 3.0),
            (16, 8.0, 160, 4.0),
        ]
        assert [found.measures["multilingual/MAP"] for found in points] == pytest.approx([0.1, 0.2, 0.4, 0.4, 0.6])
        assert compute_target_cost(points, Target("multilingual/MAP", 0.5))["tokens"] == pytest.approx(140)


def made_up(arms: dict[str, Callable[[int, int], float | None]], counts: tuple[int, ...], target: float) -> list[Any]:
    """Return rows whose step time is a function of L and the seed; a trial without one failed."""
    rows = []
    for arm, count, seed in itertools.product(arms, counts, (1, 2, 3)):
        value = arms[arm](count, seed)
        row = {
            "id": f"{arm}-L{count}-seed{seed}",
            "arm": arm,
            "num_languages": count,
            "seed": seed,
            "status": "finished" if value is not None else "failed",
            "reason": None,
            **NO_COSTS,
            "stages": {},
            "quality": {"multilingual/MAP": 0.5 - 0.01 * count + 0.001 * seed} if value is not None else {},
            "trained": {},
            "unseen": {},
            "target": None,
        }
        if value is not None:
            row["step_time_s"] = value
            reached = value < target
            row["target"] = {
                "reached": reached,
                "tokens": 5.0,
                "energy_wh": None,
                "train_time_s": value if reached else None,
            }
        rows.append(row)
    return rows


class TestFits:
    def found(self) -> tuple[list[Any], dict[str, Any]]:
        arms: dict[str, Callable[[int, int], float | None]] = {
            "hybrid": lambda count, seed: 1 + 0.5 * count + 0.001 * seed,
            "mlm_hybrid": lambda count, seed: (
                None if (count, seed) == (4, 2) else 2 * (1 + 0.5 * count) + 0.001 * seed
            ),
        }
        rows = made_up(arms, (2, 4, 8), target=9.0)
        study: Any = {"arms": ["bm25", *arms], "seeds": [1, 2, 3]}
        return rows, make_fits(study, {"rows": rows, "tokens": {}, "counts": {}})

    def test_growth_and_ratio_are_found_again(self) -> None:
        _, fits = self.found()
        fit = fits["growth"]["step_time_s"]["hybrid"]
        assert (fit["law"], fit["coefficients"]["slope"]) == ("linear", pytest.approx(0.5))
        assert fit["sentence"].startswith("step time grows with L")
        ratio = fits["ratios"]["step_time_s"]["hybrid/mlm_hybrid"]
        assert ratio["languages"] == [2, 4, 8]
        assert ratio["by_languages"]["8"]["ratio"] == pytest.approx(0.5, rel=1e-3)
        assert "1 trial failed" in ratio["all"]["sentence"]
        assert "setup_time_s" not in fits["growth"], "it was not measured"
        curse = fits["growth"]["multilingual/MAP"]["hybrid"]["from_fewest"][-1]
        assert curse["difference"] == pytest.approx(-0.06)
        assert "MAP is lower at L = 8 than at L = 2" in curse["sentence"]

    def test_a_missed_target_allows_no_claim(self) -> None:
        rows, fits = self.found()
        values = collect_values(rows, "mlm_hybrid", [1, 2, 3], "target/train_time_s")
        assert values[8] == [NOT_REACHED] * 3
        assert values[4][1] is None
        sentence = fits["ratios"]["target/train_time_s"]["hybrid/mlm_hybrid"]["all"]["sentence"]
        assert "no ratio of hybrid to mlm_hybrid can be stated" in sentence

    def test_fits_are_strict_json(self, tmp_path: Path) -> None:
        _, fits = self.found()
        StudyFolder(tmp_path).write("fits.json", fits)
        assert StudyFolder(tmp_path).read("fits.json") == json.loads(json.dumps(fits))


def test_a_table_reports_missing_and_absent_trials(tmp_path: Path) -> None:
    trials, absent = full_grid((1,))
    study: Any = {
        "trials": trials,
        "absent": absent,
        "tokens": {},
        "eval_languages": SETS[4],
        "budget": {"target": None},
    }
    folder = StudyFolder(tmp_path)
    failed = next(trial for trial in trials if trial["id"] == "pool-L2-seed1")
    folder.write_failure(failed, {"stage": "train", "returncode": 1, "last_line": "no room"})
    table = make_table(folder, study)
    assert table["counts"] == {"absent": len(absent), "failed": 1, "missing": len(trials) - 1}
    text = format_table(table)
    assert "pool-L2-seed1 failed: no room" in text
    assert "absent: cross needs at least 2 languages" in text


def test_a_plan_learns_from_the_trials_and_changes_only_what_is_given(tmp_path: Path) -> None:
    trials = tmp_path / "trials"
    for number, (languages, batch_size) in enumerate(itertools.product((2, 4, 8), (16, 32, 64))):
        write_run_folder(trials / str(number), languages=languages, batch_size=batch_size)
    other = RunFolder(trials / "mlm-L8-seed1")
    other.write_run({**RunFolder(trials / "0").read_run(), "mix": "mlm"})
    (trials / "bm25").mkdir()
    machine = tmp_path / "machine.yaml"
    name = hardware_of_run(RunFolder(trials / "0").read_run()).name
    machine.write_text(json.dumps({"name": name, "device_type": "cpu"}))
    asked = PlanArguments(plan=str(machine), batch_size=48)
    found = plan_from_study(str(tmp_path), [6], asked)
    work = found.workload
    assert (found.num_runs, work.languages, work.batch_size, work.language_pairs) == (9, 6, 48, None)
    ends = (found.step_time_s.low, found.step_time_s.high)
    step_s = [RunFolder(trials / str(number)).read_resources()["train_time_s"] / 20 for number in (1, 2)]
    assert step_s[0] * 0.8 < found.step_time_s.value < step_s[1] * 1.2
    assert None not in ends
    with pytest.raises(ValueError, match="a plan is of one number of languages"):
        plan_from_study(str(tmp_path), [6, 7], asked)
    with pytest.raises(ValueError, match="no finished training to learn from"):
        plan_from_study(str(tmp_path / "none"), [6], asked)
    machine.write_text(json.dumps({"name": name, "device_type": "cpu", "num_devices": 2, "interconnect_gb_per_s": 10}))
    for one, devices in ((PlanArguments(str(machine)), 2), (PlanArguments(str(machine), num_devices=1), 1)):
        found = plan_from_study(str(tmp_path), [6], one)
        assert found.workload.num_devices == devices
        assert f", {devices} x {name};" in prediction_table(found)
    for option, one in (
        ("plan", PlanArguments("nowhere")),
        ("measured_on", PlanArguments(str(machine), None, "nowhere")),
    ):
        with pytest.raises(ValueError, match=f"--{option} nowhere: there is no such file"):
            plan_from_study(str(tmp_path), [6], one)
    wider = build_workload([read_measured(RunFolder(trials / "8"))], 6, {"mix": "mono=1", "hidden_size": 256})
    assert (wider.model.hidden_size, wider.model.num_layers, wider.mix) == (256, 2, "mono=1")
    assert wider.model.parameters > work.model.parameters


# The curve of a run

CURVE: dict[str, Any] = {
    "eval_strategy": "steps",
    "eval_steps": 3,
    "max_eval_queries": 4,
    "mix": "mono=1",
    "logging_steps": 2,
}


def read_points(folder: Path) -> list[tuple[Any, ...]]:
    return [
        (line["step"], line["tokens"], line["measures"]["multilingual/MAP"])
        for line in RunFolder(folder).read_curve()[0]
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_curve_continues_after_a_kill(tmp_path: Path) -> None:
    corpus = toy_corpus(num_items=40)
    train, held = corpus.split(10)

    def run(folder: Path, *callbacks: Any) -> None:
        toy_trainer(folder, train, *callbacks, eval_corpus=held, dropout=0.0, **CURVE).train(
            resume_from_checkpoint=True
        )

    run(tmp_path / "whole")
    whole = read_points(tmp_path / "whole")
    assert [step for step, *_ in whole] == [3, 6, 9, 10]
    assert len({value for *_, value in whole}) > 1, "training changes what is measured"
    with pytest.raises(Kill):  # after the checkpoint of step 4 and the point of step 6
        run(tmp_path / "killed", At("on_step_begin", 7, kill))
    assert [step for step, *_ in read_points(tmp_path / "killed")] == [3, 6]
    with open(RunFolder(tmp_path / "killed").curve_path, "a") as file:
        file.write('{"step": 7, "tra')
    assert RunFolder(tmp_path / "killed").read_curve()[1] == 1
    run(tmp_path / "killed")
    assert read_points(tmp_path / "killed") == whole
    lines, torn = RunFolder(tmp_path / "killed").read_curve()
    times = [line["train_time_s"] for line in lines]
    assert times == sorted(times)
    assert torn == 0
    totals = RunFolder(tmp_path / "killed").read_resources()
    assert 0 < times[0] < times[-1] == totals["train_time_s"], "the curve has a point at the end"
    assert math.isfinite(lines[0]["measures"]["bias/rank_distance"])


def test_an_evaluation_outside_of_training_adds_no_point_to_the_curve(tmp_path: Path) -> None:
    train, held = toy_corpus(num_items=40).split(10)
    trainer = toy_trainer(tmp_path / "run", train, eval_corpus=held, max_steps=1, max_eval_queries=2)
    trainer.train()
    assert "eval_multilingual/MAP" in trainer.evaluate()
    assert RunFolder(tmp_path / "run").read_curve() == ([], 0)
