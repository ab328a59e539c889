"""Steps of each arm at each L, so that all trials have the same budget.

| budget | steps of contrastive training | steps of masked language modeling |
|---|---|---|
| `steps` | the number itself | as many tokens as the hybrid arm has at this L (at L = 1: the mono arm) |
| `tokens` | tokens over those of a mean step, counted in the token cache | tokens over those of a step |
| `time` | seconds over those of a step in a short run | likewise |
| `target_quality` | `max_steps` of the configuration, as a cap | as for `steps` |

Each stage of `mlm_hybrid` has the whole budget, so that the arm costs both. `study.json` keeps resolved steps, so that
a resumed study has the same plan.
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
from .arms import ARMS, FIXED_LANGUAGES, Shared, Trial, build_stages, make_budget_key
from .folder import Budget, StudyFolder
from .inputs import Inputs, Settings

_MOST_COUNTED = 300  # steps of a plan whose tokens are counted
_HOW = {
    "steps": "the same steps for all trials; masked language modeling for as many tokens as hybrid batches",
    "tokens": "the same tokens for all trials, to the nearest step",
    "time": "the same training time for all trials, by step times of short runs",
    "target_quality": "a cap of steps for all trials; the cost to the target is read off the quality curve",
}


class BudgetResolver:
    """Converts a budget to steps.

    Args:
        study (`StudyArguments`): With the budget.
        settings (`Settings`): Settings of all trials.
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
        """Return the budget with the steps of all trials.

        Args:
            trials (`Sequence[Trial]`): Of `arms.build_grid`.
            shared (`Shared`): For the commands of pilots.
            known (`Budget`, *optional*): The budget of the study so far.
        """
        steps, mlm_steps = (dict(known["steps"]), dict(known["mlm_steps"])) if known else ({}, {})
        new = {_key(trial): trial for trial in trials if ARMS[trial["arm"]].trains}
        new = {key: trial for key, trial in new.items() if key not in steps and key not in mlm_steps}
        step_times = self._run_pilots(new, shared) if self.study.budget == "time" else {}
        for key, trial in new.items():
            times = step_times.get(key, {})
            if ARMS[trial["arm"]].mix:
                steps[key] = max(1, round(self._amount / self._cost_of_step(trial, times)))
            if ARMS[trial["arm"]].mlm:
                mlm_steps[key] = max(1, round(self._mlm_amount(trial) / self._cost_of_mlm_step(times)))
        return {
            "type": self.study.budget,
            "value": self.value,
            "target": self.study.aim._asdict() if self.study.aim else None,
            "steps": steps,
            "mlm_steps": mlm_steps,
            "how": _HOW[self.study.budget],
        }

    @property
    def value(self) -> float | None:
        """The budget in steps, tokens or seconds; `None` for a target, whose steps are only a cap."""
        return None if self.study.budget == "target_quality" else self._amount

    @property
    def _amount(self) -> float:
        return self.settings.args.max_steps if self.study.amount is None else self.study.amount

    def _cost_of_step(self, trial: Trial, times: Mapping[str, float]) -> float:
        """Return the cost of a step of contrastive training in the unit of the budget."""
        if self.study.budget == "time":
            return times["train"]
        return self._tokens_per_step(trial, _MOST_COUNTED) if self.study.budget == "tokens" else 1

    def _mlm_amount(self, trial: Trial) -> float:
        """Return the budget of masked language modeling, in tokens or seconds."""
        if self.study.budget in ("time", "tokens"):
            return self._amount
        like: Trial = {**trial, "arm": "hybrid" if trial["num_languages"] > 1 else "mono"}
        return self._amount * self._tokens_per_step(like, min(round(self._amount), _MOST_COUNTED))

    def _cost_of_mlm_step(self, times: Mapping[str, float]) -> float:
        args = self.settings.mlm_args
        tokens = args.gradient_accumulation_steps * args.global_batch_size * args.block_length
        return times["mlm"] if self.study.budget == "time" else tokens

    def _tokens_per_step(self, trial: Trial, steps: int) -> float:
        """Return the mean over a plan of `steps` steps."""
        args, mix = self.settings.args, ARMS[trial["arm"]].mix
        assert mix is not None
        schedule = HybridSchedule(
            self.inputs.train.select_languages(trial["languages"]),
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
        model_args, corpus = self.settings.model_args, self.inputs.train
        encoder = HybridEncoder.from_pretrained(
            self.base, query_prompt=model_args.query_prompt, passage_prompt=model_args.passage_prompt
        )
        fixed = [code for code in FIXED_LANGUAGES if code in corpus.languages]
        languages = list(dict.fromkeys([*self.inputs.largest_set, *fixed]))
        cache = TokenCache(
            corpus.select_languages(languages),
            encoder.tokenizer,
            query_prompt=encoder.prompts["query"],
            passage_prompt=encoder.prompts["passage"],
            max_query_length=min(model_args.max_query_length, encoder.max_length),
            max_passage_length=min(model_args.max_passage_length, encoder.max_length),
            cache_dir=self.settings.data_args.cache_dir,
        )
        cache.build()
        return cache

    def _run_pilots(self, trials: Mapping[str, Trial], shared: Shared) -> dict[str, dict[str, float]]:
        """Return the seconds of a step of each stage, by budget key, from short runs."""
        steps = self.study.pilot_steps
        shared = shared._replace(eval_every=steps + 1)  # never
        pilots: dict[str, Trial] = {}
        for key, trial in trials.items():
            pilot: Trial = {**trial, "id": f"pilot-{key}"}
            pilots[key] = {**pilot, "stages": build_stages(pilot, shared, {key: steps}, {key: steps})}
        self.run_pilots(list(pilots.values()))
        folder, times = StudyFolder(self.study.study_dir), {}
        for key, pilot in pilots.items():
            if folder.status(pilot) != "finished":
                log = folder.trial_path(pilot) / "log.txt"
                raise ValueError(
                    f"The short run {pilot['id']} did not finish, so that its step time is unknown: {log}"
                )
            runs = {stage["name"]: RunFolder(folder.stage_path(stage)) for stage in pilot["stages"]}
            times[key] = {
                name: typical_step_time(run.read_resource_lines()[0], run.read_resources())
                for name, run in runs.items()
            }
        return times


def _key(trial: Trial) -> str:
    return make_budget_key(trial["arm"], trial["num_languages"])
