"""`recipes/scale.py`: a small study from its command to its table, and what becomes of it when it is stopped.

Its trials run in this process, without the seconds that one of their own takes to start; `test_scaling.py` has those.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_hybrid.commands import console
from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.sources.load import load_corpus
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.scaling.grid.arms import Stage, build_command
from hf_hybrid.scaling.grid.folder import StudyFolder
from hf_hybrid.scaling.grid.inputs import measure_token_premiums
from hf_hybrid.scaling.grid.sweep import Sweep
from hf_hybrid.training import run as runs
from hf_hybrid.training.interruption import RESUME_ME
from hf_hybrid.training.plan_trainer import PlanTrainer
from tests.support.recipe_runs import REPOSITORY, Ended, recipes_here, write_jsonl_corpus
from tests.support.toy_runs import At
from tests.support.toys import toy_corpus, toy_encoder

ARMS = "zero_shot,bm25,english,mono,hybrid,mlm,mlm_hybrid"
SMALL = "--global_batch_size 8 --logging_steps 1 --max_eval_queries 3 --energy none --disable_tqdm true"
SIZE = "--scratch_hidden_size 16 --scratch_num_layers 1 --scratch_vocab_size 300 --held_out 12"
BLOCKS = "--global_batch_size 2 --block_length 32 --logging_steps 1 --max_eval_queries 3 --energy none"
TOKENS = 2 * 32  # of a step of masked language modeling


Run = Callable[..., Ended]


def run_here(words: list[str], log: Path) -> int:
    """`python -m hf_hybrid ...` in this process; its exit status."""
    assert words[1:3] == ["-m", "hf_hybrid"]
    former, sys.argv = sys.argv, ["hf_hybrid/__main__.py", *words[3:]]
    try:
        console.main()
        return 0
    except SystemExit as stop:
        return int(stop.code or 0)
    except Exception as error:
        with open(log, "a") as file:
            print(f"{type(error).__name__}: {error}", file=file)
        return 1
    finally:
        sys.argv = former


def run_stage_here(sweep: Sweep, stage: Stage, log: Path) -> int:
    """A stage of a trial in this process, in place of `Sweep._run_stage`."""
    words = build_command(stage, str(sweep.folder.path), sweep.launch)
    return run_here([*words, *(["--cpu_threads", "1"] if stage["name"] != "eval" else [])], log)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trials run here; the folders of the stages that ran."""
    ran: list[str] = []

    def run_stage(self: Sweep, stage: Stage, log: Path) -> int:
        ran.append(str(self.folder.stage_path(stage).relative_to(self.folder.path / "trials")))
        return run_stage_here(self, stage, log)

    monkeypatch.setattr(Sweep, "_run_stage", run_stage)
    monkeypatch.setattr(runs, "_write_card_and_bundle", lambda *_: None)  # they have tests of their own, and take long
    return ran


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`python recipes/scale.py OPTIONS`, in this process."""
    with recipes_here(monkeypatch, capsys) as call:
        yield partial(call, "scale")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("study")
    write_jsonl_corpus(place / "corpus", missing=0.1)
    return place


def asked(place: Path, **changes: Any) -> Path:
    """A configuration file."""
    settings = {
        "study_dir": str(place / "study"),
        "train_corpus": str(place / "corpus"),
        "languages": "1,2",
        "order": "de,en,ar",
        "arms": ARMS,
        "seeds": "1",
        "budget": "steps",
        "budget_value": "4",
        "target": "multilingual/MAP=0.01",
        "eval_every": 3,
        "train_config": "sample/hybrid",
        "train_options": f"{SMALL} {SIZE} --save_steps 2",
        "mlm_config": "sample/mlm",
        "mlm_options": BLOCKS,
        "threads": 1,
        **changes,
    }
    path = place / "study.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def without_times(table: Any) -> Any:
    """What two runs of a trial on one machine have the same."""
    clock = ("time", "memory", "energy")
    if isinstance(table, dict):
        return {name: without_times(value) for name, value in table.items() if not any(word in name for word in clock)}
    return [without_times(value) for value in table] if isinstance(table, list) else table


TRIALS = ["zero_shot-seed1", "bm25", "english-L1-seed1", "mono-L1-seed1", "mono-L2-seed1", "hybrid-L2-seed1"]
TRIALS += ["mlm-L1-seed1", "mlm-L2-seed1", "mlm_hybrid-L2-seed1"]


@pytest.mark.slow
class TestASmallStudy:
    @pytest.fixture
    def study(self, place: Path, run: Run, stages: list[str]) -> StudyFolder:
        if not (place / "told.txt").exists():
            found = run("--config", asked(place))
            assert found.returncode == 0, found.stdout + found.stderr
            (place / "told.txt").write_text(found.stdout)
            (place / "stages.txt").write_text("\n".join(stages))
            stages.clear()
        return StudyFolder(place / "study")

    def rows(self, study: StudyFolder) -> dict[str, Any]:
        return {row["id"]: row for row in study.read("table.json")["rows"]}

    def test_every_trial_is_there_and_told_of(self, study: StudyFolder, place: Path) -> None:
        rows, told = self.rows(study), (place / "told.txt").read_text()
        assert [name for name, row in rows.items() if row["status"] == "finished"] == TRIALS
        assert {row["reason"] for name, row in rows.items() if name in ("hybrid-L1", "mlm_hybrid-L1")} == {
            "hybrid needs at least 2 languages",
            "mlm_hybrid needs at least 2 languages",
        }
        assert "[9/9] mlm_hybrid-L2-seed1 finished" in told
        assert f"{rows['hybrid-L2-seed1']['quality']['multilingual/MAP']:.4f}" in told
        assert (place / "stages.txt").read_text().split()[-2:] == ["mlm_hybrid-L2-seed1/mlm", "mlm_hybrid-L2-seed1"]

    def test_all_begin_with_one_model_and_are_asked_the_same(self, study: StudyFolder) -> None:
        folders = {name: RunFolder(study.path / "trials" / name) for name in TRIALS}
        start = {
            name: folders[name].read_run()["identity"]["model"]
            for name in TRIALS
            if name.startswith(("english", "mono", "hybrid"))
        }
        assert len(set(start.values())) == 1
        asked = {name: run.read_eval()["evaluated"] for name, run in folders.items()}
        assert len({found["corpus_fingerprint"] for found in asked.values()}) == 1
        assert {tuple(found["languages"]) for found in asked.values()} == {("de", "en")}
        assert len({run.read_eval()["after"]["num_queries"] for run in folders.values()}) == 1  # type: ignore[index]

    def test_no_trial_trains_on_what_another_is_evaluated_on(self, study: StudyFolder, place: Path) -> None:
        parts = [set(load_corpus(study.path / "corpora" / name).item_ids) for name in ("train", "eval")]
        assert all(parts)
        assert not parts[0] & parts[1]
        whole = load_corpus(place / "corpus", languages=["de", "en"])
        assert parts[0] | parts[1] <= set(whole.item_ids)

    def test_masked_language_modeling_has_the_tokens_of_the_hybrid_arm(self, study: StudyFolder) -> None:
        rows = self.rows(study)
        for count, arm in ((1, "mono"), (2, "hybrid")):
            tokens = rows[f"{arm}-L{count}-seed1"]["tokens"]
            assert tokens > 3 * TOKENS
            assert abs(rows[f"mlm-L{count}-seed1"]["tokens"] - tokens) <= TOKENS / 2

    def test_two_stages_are_told_together_and_apart(self, study: StudyFolder) -> None:
        rows = self.rows(study)
        both, stages = rows["mlm_hybrid-L2-seed1"], rows["mlm_hybrid-L2-seed1"]["stages"]
        assert list(stages) == ["mlm", "train"]
        for name in ("train_time_s", "setup_time_s", "tokens", "num_steps"):
            assert both[name] == pytest.approx(stages["mlm"][name] + stages["train"][name])
        assert stages["train"]["tokens"] == rows["hybrid-L2-seed1"]["tokens"]
        assert both["step_time_s"] == stages["train"]["step_time_s"]
        assert both["target"]["tokens"] <= both["tokens"]

    def test_a_row_has_the_numbers_of_its_run(self, study: StudyFolder) -> None:
        row = self.rows(study)["mono-L1-seed1"]
        run = RunFolder(study.path / "trials" / "mono-L1-seed1")
        scores, resources = run.read_eval()["after"], run.read_resources()
        assert scores is not None
        assert row["quality"]["multilingual/MAP"] == scores["multilingual"]["MAP"]
        assert row["trained"]["monolingual/MAP"] == scores["pairs"]["de-de"]["MAP"]
        assert row["unseen"]["monolingual/MAP"] == scores["pairs"]["en-en"]["MAP"]
        assert "cross_lingual/MAP" not in row["trained"]
        assert row["setup_time_s"] == resources["setup_time_s"]
        assert row["peak_host_memory_gib"] == max(resources["peak_host_memory_gib"])
        assert [line["step"] for line in run.read_curve()[0]] == [3, 4]
        assert not [*run.path.glob("cache"), *run.path.glob("checkpoint-*")], "it has finished"
        assert (run.path / "model").exists()

    def test_the_untrained_model_is_the_first_point(self, study: StudyFolder) -> None:
        rows = self.rows(study)
        start = rows["zero_shot-seed1"]["quality"]["multilingual/MAP"]
        assert start > 0.01
        assert rows["hybrid-L2-seed1"]["target"] == {
            "measure": "multilingual/MAP",
            "value": 0.01,
            "reached": True,
            "at_most": True,
            "step": 0,
            "train_time_s": 0.0,
            "tokens": 0,
            "energy_wh": 0.0,
        }

    def test_the_fits_are_of_the_table(self, study: StudyFolder) -> None:
        fits, rows = study.read("fits.json"), self.rows(study)
        points = fits["growth"]["step_time_s"]["mono"]["points"]
        assert [point["mean"] for point in points] == [rows[f"mono-L{n}-seed1"]["step_time_s"] for n in (1, 2)]
        found = fits["ratios"]["tokens"]["hybrid/mlm"]["by_languages"]["2"]
        assert found["ratio"] == pytest.approx(rows["hybrid-L2-seed1"]["tokens"] / rows["mlm-L2-seed1"]["tokens"])
        assert "one seed cannot show a difference" in found["sentence"]
        assert "hybrid" not in fits["growth"]["multilingual/MAP"], "it has one L"

    def test_the_same_command_runs_nothing_and_writes_the_same(
        self, study: StudyFolder, place: Path, run: Run, stages: list[str]
    ) -> None:
        names = ("study.json", "table.json", "fits.json")
        before = {name: (study.path / name).read_bytes() for name in names}
        assert run("--config", asked(place)).returncode == 0
        assert stages == []
        assert {name: (study.path / name).read_bytes() for name in names} == before

    def test_another_target_is_read_off_the_same_runs(
        self, study: StudyFolder, place: Path, run: Run, stages: list[str]
    ) -> None:
        assert run("--config", asked(place, target="multilingual/MAP=0.999")).returncode == 0
        missed = self.rows(study)["hybrid-L2-seed1"]["target"]
        assert (missed["reached"], missed["train_time_s"]) == (False, None)
        assert run("--config", asked(place)).returncode == 0
        assert self.rows(study)["hybrid-L2-seed1"]["target"]["reached"]
        assert stages == []

    def test_another_study_is_refused_by_name(self, study: StudyFolder, place: Path, run: Run) -> None:
        assert study.has("study.json")
        others = {
            "budget_value": ("5", "value was 4.0 and is 5.0"),
            "train_options": (f"{SMALL} {SIZE} --temperature 0.1", "train_settings was"),
            "eval_languages": ("de", "holds other items or languages than this study would"),
            "arms": ("hybrid", "this command has no zero_shot-seed1 and 7 more; choose trials with --only"),
        }
        configs = (study.path / "configs" / "train.yaml").read_bytes()
        for name, (value, message) in others.items():
            found = run("--config", asked(place, **{name: value}), "--list")
            assert found.returncode == 2, name
            assert message in found.stderr
        assert (study.path / "configs" / "train.yaml").read_bytes() == configs

    def test_a_mistake_deletes_nothing(self, study: StudyFolder, place: Path, run: Run) -> None:
        before = {path: path.stat().st_mtime_ns for path in study.path.rglob("*") if path.is_file()}
        assert len(before) > 50
        mistakes = {
            "--list": "leave one of them out",
            "--train_options=--temprature 3": "did you mean --temperature",
            "--only=hybird-*": "matches no trial. The trials are zero_shot-seed1, bm25,",
            "--order=de,xx": "the corpus has no 'xx'",
            "--budget=tokens --budget_value=-1": "budget_value",
            f"--train_corpus={study.path / 'corpora' / 'train'}": "--overwrite would delete",
        }
        for words, message in mistakes.items():
            options = [words] if "train" in words else words.split()
            found = run("--config", asked(place), "--overwrite", *options)
            assert found.returncode == 2, words
            assert message in found.stderr
        assert {path: path.stat().st_mtime_ns for path in study.path.rglob("*") if path.is_file()} == before

    def test_a_seed_more_is_more_trials(self, study: StudyFolder, place: Path, run: Run, stages: list[str]) -> None:
        earlier = study.read("study.json")["trials"]
        found = run("--config", asked(place, seeds="2"), "--only", "hybrid-*")
        assert found.returncode == 0, found.stderr
        assert stages == ["hybrid-L2-seed2"]
        trials = study.read("study.json")["trials"]
        assert [trial for trial in trials if trial["seed"] != 2] == earlier
        assert self.rows(study)["mono-L1-seed2"]["status"] == "missing"
        assert study.read("fits.json")["ratios"]["tokens"]["hybrid/mlm"]["all"]["num_missing"] == 1
        listed = run("--config", asked(place, seeds="2"), "--list").stdout
        number = next(line.split()[0] for line in listed.splitlines() if "mono-L2-seed2" in line)
        assert "missing" in next(line for line in listed.splitlines() if "mono-L2-seed2" in line)
        stages.clear()
        assert run("--config", asked(place, seeds="2"), "--trial", number).returncode == 0
        assert stages == ["mono-L2-seed2"]

    def test_stopped_twice_it_ends_as_one_left_alone(
        self, study: StudyFolder, place: Path, run: Run, stages: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stops = [("MlmTrainer", 3), ("HybridTrainer", 3)]  # checkpoints are written before that, not at it
        made = PlanTrainer.__init__

        def stopped(self: Any, *args: Any, **kwargs: Any) -> None:
            made(self, *args, **kwargs)
            if stops and stops[0][0] == type(self).__name__:
                self.add_callback(At("on_step_begin", stops.pop(0)[1], stop))

        def stop(**_: Any) -> None:
            raise SystemExit(RESUME_ME)

        monkeypatch.setattr(PlanTrainer, "__init__", stopped)
        words = ["--config", asked(place, study_dir=str(place / "stopped"))]
        words += ["--only", "zero_shot-*,mlm_hybrid-*"]
        other = StudyFolder(place / "stopped")
        for left in (1, 0):
            run(*words)
            assert len(stops) == left
            assert self.rows(other)["mlm_hybrid-L2-seed1"]["status"] == "missing"
        assert run(*words).returncode == 0
        names = ("zero_shot-seed1", "mlm_hybrid-L2-seed1")
        again, whole = (without_times([self.rows(folder)[name] for name in names]) for folder in (other, study))
        assert again == whole
        assert whole[1]["quality"], "there is something to compare"
        steps = [[line["step"] for line in self.curve(folder)] for folder in (other, study)]
        assert steps[0] == steps[1] == [3, 4]

    def curve(self, study: StudyFolder) -> list[Any]:
        return list(RunFolder(study.path / "trials" / "mlm_hybrid-L2-seed1").read_curve()[0])


class TestBudgets:
    def steps(self, tmp_path: Path, run: Run, **changes: Any) -> dict[str, Any]:
        if not (tmp_path / "corpus").exists():
            write_jsonl_corpus(tmp_path / "corpus", missing=0.1)
        found = run("--config", asked(tmp_path, **changes), "--list")
        assert found.returncode == 0, found.stderr
        budget: dict[str, Any] = StudyFolder(tmp_path / "study").read("study.json")["budget"]
        return budget

    @pytest.mark.slow
    def test_of_tokens(self, tmp_path: Path, run: Run, stages: list[str]) -> None:
        arms = "mono,pool,mlm"
        budget = self.steps(tmp_path, run, arms=arms, budget="tokens", budget_value="2000", languages="2")
        assert budget["mlm_steps"] == {"mlm-L2": round(2000 / TOKENS)}
        assert budget["steps"]["pool-L2"] < budget["steps"]["mono-L2"], "its batches have more passages"
        found = run("--config", tmp_path / "study.yaml", "--only", "pool-*,mlm-*")
        assert found.returncode == 0, found.stdout + found.stderr
        rows = {row["arm"]: row for row in StudyFolder(tmp_path / "study").read("table.json")["rows"]}
        assert rows["pool"]["tokens"] == pytest.approx(2000, rel=0.15)
        assert rows["mlm"]["tokens"] == pytest.approx(2000, abs=TOKENS)

    def test_of_time(self, tmp_path: Path, run: Run, stages: list[str]) -> None:
        changes = {"arms": "mono", "budget": "time", "budget_value": "0.5", "languages": "1,2", "pilot_steps": 3}
        budget = self.steps(tmp_path, run, **changes)
        assert stages == ["pilot-mono-L1", "pilot-mono-L2"]
        run_folder = RunFolder(tmp_path / "study" / "trials" / "pilot-mono-L1")
        assert run_folder.read_run()["config"]["max_steps"] == 3
        assert budget["steps"]["mono-L1"] > 3
        again = self.steps(tmp_path, run, **changes, seeds="2")
        assert (again["steps"], len(stages)) == (budget["steps"], 2), "what was resolved stays"

    def test_of_a_target(self, tmp_path: Path, run: Run) -> None:
        options = f"{SMALL} {SIZE} --max_steps 7"
        changes = {"arms": "mono", "budget": "target_quality", "budget_value": "multilingual/MAP=0.4", "target": None}
        budget = self.steps(tmp_path, run, **changes, train_options=options, languages="1")
        assert budget["steps"] == {"mono-L1": 7}
        assert budget["target"] == {"measure": "multilingual/MAP", "value": 0.4}


def test_a_token_premium_is_that_of_the_same_items() -> None:
    corpus: ParallelCorpus = toy_corpus(languages=("de", "en"), missing=0.3)
    tokenizer = toy_encoder(corpus).tokenizer
    found = measure_token_premiums(corpus, tokenizer)
    rows = corpus.rows
    both = [(de, en) for de, en in rows.tolist() if min(de) >= 0 and min(en) >= 0]
    assert 0 < len(both) < len(corpus)
    counts = [0, 0]
    for pair in both:
        for column, (query, passage) in enumerate(pair):
            for side, row in ((0, query), (1, passage)):
                counts[column] += len(tokenizer.tokenize(corpus.text(side, ("de", "en")[column], row)))
    assert found["de"]["premium"] == pytest.approx(counts[0] / counts[1])
    assert found["en"]["premium"] == 1.0
    assert found["de"]["texts"] == 2 * int((rows[:, 0, 0] >= 0).sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--languages", "1,99"], "languages: got 99, but the order has only 3"),
        (["--order", "de,xx"], "the corpus has no 'xx'"),
        (["--train_options=--seed 3"], "the study itself sets seed"),
        (["--train_options=--temprature 3"], "did you mean --temperature"),
        (["--arm", "hybrid"], "did you mean --arms"),
        (
            ["--only", "hybird-*"],
            "only='hybird-*' matches no trial. The trials are mono-L1-seed1, mono-L2-seed1; see --list.",
        ),
        (["--plan", "nowhere.yaml"], "a plan is of one number of languages"),
    ],
)
def test_mistakes_are_explained(options: list[str], message: str, place: Path, tmp_path: Path, run: Run) -> None:
    found = run("--config", asked(place, study_dir=str(tmp_path / "study"), arms="mono"), *options)
    assert found.returncode == 2
    assert message in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "study").exists()


def test_a_study_may_be_another_until_a_trial_has_begun(
    place: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StudyFolder(tmp_path / "study")
    folder.path.mkdir()
    for name in ("nohup.out", "report.md"):
        (folder.path / name).touch()
    changes = {"study_dir": str(folder.path), "arms": "mono"}
    others = {"languages": "2", "seeds": "2,", "eval_every": 2, "eval_languages": "de", "budget_value": "5"}
    others["train_options"] = f"{SMALL} {SIZE} --scratch_hidden_size 32"

    def found_by(*words: str, **more: Any) -> Ended:
        return run("--config", asked(place, **changes, **more), *words)

    def read() -> tuple[Any, ...]:
        study = folder.read("study.json")
        base = (folder.path / "base" / "made_of.json").read_text()
        return [trial["id"] for trial in study["trials"]], study["eval_languages"], study["eval_every"], base

    assert found_by("--list").returncode == 0
    first = read()
    assert first[:3] == (["mono-L1-seed1", "mono-L2-seed1"], ["de", "en"], 3)
    found = found_by("--list", **others)
    assert found.returncode == 0, found.stderr
    assert read()[:3] == (["mono-L2-seed2"], ["de"], 2)
    assert read()[3] != first[3]
    assert list(load_corpus(folder.path / "corpora" / "eval").languages) == ["de"]
    begun = folder.path / "trials" / "mono-L2-seed2" / "log.txt"
    with folder.outputs.open_nested("trials/mono-L2-seed2").writing("log.txt") as unfinished:
        unfinished.touch()
    assert "--overwrite to start over" in found_by("--list").stderr
    assert read()[0] == ["mono-L2-seed2"]
    monkeypatch.setattr(Sweep, "run", lambda *_: {})
    assert found_by("--overwrite").returncode == 0
    assert read() == first
    assert not begun.parent.exists()
    assert (folder.path / "nohup.out").exists()


@pytest.mark.parametrize(("name", "message"), [("run.json", "holds a run"), ("thesis.tex", "but holds thesis.tex")])
def test_a_folder_of_something_else_is_left_alone(
    name: str, message: str, place: Path, tmp_path: Path, run: Run
) -> None:
    (tmp_path / name).touch()
    for words in (["--list"], ["--overwrite"]):
        found = run("--config", asked(place, study_dir=str(tmp_path), arms="mono"), *words)
        assert (found.returncode, message in found.stderr) == (2, True)
        assert "hoose another study_dir" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_one_trial_is_one_job_under_slurm(tmp_path: Path) -> None:
    """The job script, with a `srun` and a `scontrol` that write down what they are asked."""
    for name, code in (("srun", 75), ("scontrol", 0)):
        stub = tmp_path / name
        stub.write_text(f'#!/bin/bash\necho {name} "$@" >> {tmp_path}/asked\nexit {code}\n')
        stub.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SLURM_CPUS_PER_TASK": "4",
        "SLURM_ARRAY_TASK_ID": "17",
        "SLURM_ARRAY_JOB_ID": "99",
    }
    script = REPOSITORY / "accelerate_configs" / "scale.sbatch"
    ended = subprocess.run(["bash", str(script), "--config", "x.yaml"], env=environment, check=False)
    assert ended.returncode == RESUME_ME
    started, requeued = (tmp_path / "asked").read_text().splitlines()
    assert started.startswith("srun --cpus-per-task=4 python recipes/scale.py --config x.yaml --trial 17")
    assert requeued == "scontrol requeue 99_17"
    environment.pop("SLURM_ARRAY_TASK_ID")
    refused = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "sbatch --array" in refused.stderr


def test_json_of_a_study_is_strict(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        folder.write("table.json", {"value": float("nan")})
    (tmp_path / "table.json").write_text(json.dumps({"format": {"name": "hf_hybrid study", "version": 2}}))
    with pytest.raises(ValueError, match="expected the format"):
        folder.read("table.json")
