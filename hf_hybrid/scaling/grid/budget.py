"""Steps of each arm at each L, so that all trials have the same budget.

| budget | contrastive training | masked language modeling |
|---|---|---|
| `steps` | so many | as many tokens as the hybrid arm has at this L (at L = 1: the monolingual) |
| `tokens` | tokens over those of a mean step, counted in the token cache | tokens over those of a step |
| `time` | seconds over those of a step in a short run | likewise |
| `target_quality` | `max_steps` of the configuration, as a cap | as for `steps` |

Of `mlm_hybrid` each stage has the budget of its own: its whole cost is the sum. What has been resolved once stays in
`study.json`, so that a study that is resumed has the same plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from hf_hybrid.data.batches.collator import HybridCollator
from hf_hybrid.data.batches.schedule import HybridSchedule
from hf_hybrid.data.batches.token_cache import TokenCache
from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.scaling.planner.measured_runs import typical_step_time

from .arguments import StudyArguments
from .arms import ARMS, Shared, Trial, build_stages, make_budget_key
from .folder import Budget, StudyFolder
from .inputs import Inputs, Settings

_MOST_COUNTED = 300  # steps of a plan whose tokens are counted
_HOW = {
    "steps": "all train for so many steps; masked language modeling for as many tokens as hybrid batches",
    "tokens": "all train on so many tokens, to the nearest step",
    "time": "all train for as long, by step times of short runs",
    "target_quality": "all train up to a cap, and the cost to the target is read off the quality curve",
}


class BudgetResolver:
    """Resolves a budget to steps.

    Args:
        study (`StudyArguments`): With the budget.
        settings (`Settings`): Of all trials.
        inputs (`Inputs`): The corpora.
        base (`str`): A base model, for its tokenizer.
        run_pilots (`Callable`): Runs trials, for a budget of time.
    """

    def __init__(
        self,
        study: StudyArguments,
        settings: Settings,
        inputs: Inputs,
        base: str,
        run_pilots: Callable[[Sequence[Trial]], Any],
    ) -> None:
        self.study, self.settings, self.inputs = study, settings, inputs
        self.base, self.run_pilots = base, run_pilots

    def resolve(self, trials: Sequence[Trial], shared: Shared, known: Budget | None) -> Budget:
        """The steps of all trials.

        Args:
            trials (`Sequence[Trial]`): Of `arms.grid`.
            shared (`Shared`): For the commands of pilots.
            known (`Budget`, *optional*): What was resolved before.
        """
        found: dict[str, dict[str, int]] = {"steps": {}, "mlm_steps": {}}
        for name in found:
            found[name].update(known[name] if known else {})  # type: ignore[literal-required]
        trained = {
            make_budget_key(trial["arm"], trial["num_languages"]): trial
            for trial in trials
            if ARMS[trial["arm"]].trains
        }
        new = {
            key: trial
            for key, trial in trained.items()
            if (ARMS[trial["arm"]].mix and key not in found["steps"])
            or (ARMS[trial["arm"]].mlm and key not in found["mlm_steps"])
        }
        times = self._pilot_times(list(new.values()), shared) if self.study.budget == "time" else {}
        for key, trial in new.items():
            if ARMS[trial["arm"]].mix:
                found["steps"][key] = self._steps(trial, times)
            if ARMS[trial["arm"]].mlm:
                found["mlm_steps"][key] = self._mlm_steps(trial, times)
        target = self.study.aim._asdict() if self.study.aim else None
        budget_type = self.study.budget
        value = None if budget_type == "target_quality" else self.amount
        return {
            "type": budget_type,
            "value": value,
            "target": target,
            "steps": found["steps"],
            "mlm_steps": found["mlm_steps"],
            "how": _HOW[budget_type],
        }

    @property
    def amount(self) -> float:
        """The budget in steps, tokens or seconds."""
        return self.settings.args.max_steps if self.study.amount is None else self.study.amount

    def _steps(self, trial: Trial, times: Mapping[str, dict[str, float]]) -> int:
        if self.study.budget == "tokens":
            return max(1, round(self.amount / self._tokens_a_step(trial["arm"], trial["languages"], _MOST_COUNTED)))
        if self.study.budget == "time":
            return max(1, round(self.amount / times[_pilot_id(trial)]["train"]))
        return round(self.amount)

    def _mlm_steps(self, trial: Trial, times: Mapping[str, dict[str, float]]) -> int:
        if self.study.budget == "time":
            return max(1, round(self.amount / times[_pilot_id(trial)]["mlm"]))
        args, tokens = self.settings.mlm_args, self.amount
        if self.study.budget != "tokens":
            arm = "hybrid" if trial["num_languages"] > 1 else "mono"
            steps = min(round(self.amount), _MOST_COUNTED)
            tokens = self.amount * self._tokens_a_step(arm, trial["languages"], steps)
        return max(1, round(tokens / (args.gradient_accumulation_steps * args.global_batch_size * args.block_length)))

    def _tokens_a_step(self, arm: str, languages: Sequence[str], steps: int) -> float:
        """The mean over a plan of so many steps."""
        args, mix = self.settings.args, ARMS[arm].mix
        assert mix is not None
        schedule = HybridSchedule(
            self.inputs.train.select_languages(languages),
            mix,
            global_batch_size=args.global_batch_size,
            num_steps=steps * args.gradient_accumulation_steps,
            seed=self.study.seed_list[0],
            smoothing=args.smoothing,
            language_pairs=args.language_pairs,
            exclude=args.exclude,
            max_positives=args.max_positives,
        )
        collator = HybridCollator(schedule, self._cache, args.num_negatives)
        return sum(collator(number)["facts"].tokens for number in range(len(schedule))) / steps

    @cached_property
    def _cache(self) -> TokenCache:
        model_args = self.settings.model_args
        encoder = HybridEncoder.from_pretrained(
            self.base, query_prompt=model_args.query_prompt, passage_prompt=model_args.passage_prompt
        )
        cache = TokenCache(
            self.inputs.train.select_languages(self.languages),
            encoder.tokenizer,
            query_prompt=encoder.prompts["query"],
            passage_prompt=encoder.prompts["passage"],
            max_query_length=min(model_args.max_query_length, encoder.max_length),
            max_passage_length=min(model_args.max_passage_length, encoder.max_length),
            cache_dir=self.settings.data_args.cache_dir,
        )
        cache.build()
        return cache

    @property
    def languages(self) -> list[str]:
        """Items that any trial may train on."""
        largest = self.inputs.sets[max(self.inputs.sets)]
        return list(dict.fromkeys([*largest, *({"en"} & set(self.inputs.train.languages))]))

    def _pilot_times(self, trials: Sequence[Trial], shared: Shared) -> dict[str, dict[str, float]]:
        """Seconds of a step, by pilot and stage."""
        steps = self.study.pilot_steps
        pilots: dict[str, Trial] = {}
        for trial in trials:
            pilot: Trial = {**trial, "id": _pilot_id(trial), "stages": []}
            key = make_budget_key(trial["arm"], trial["num_languages"])
            once = shared._replace(eval_every=steps + 1)  # which is never
            pilots[pilot["id"]] = {**pilot, "stages": build_stages(pilot, once, {key: steps}, {key: steps})}
        self.run_pilots(list(pilots.values()))
        folder = StudyFolder(self.study.study_dir)
        for pilot in pilots.values():
            if folder.status(pilot) != "finished":
                place = folder.trial_path(pilot) / "log.txt"
                raise ValueError(f"The short run {pilot['id']} did not finish, so no budget follows: {place}")
        return {
            name: {stage["name"]: _step_time(RunFolder(folder.stage_path(stage))) for stage in pilot["stages"]}
            for name, pilot in pilots.items()
        }


def _pilot_id(trial: Trial) -> str:
    return f"pilot-{make_budget_key(trial['arm'], trial['num_languages'])}"


def _step_time(run: RunFolder) -> float:
    return typical_step_time(run.read_resource_lines()[0], run.read_resources())
