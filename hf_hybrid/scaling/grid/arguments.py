"""Arguments of `hf-hybrid scale`: a study, and a plan from the runs of one."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

from hf_hybrid.utils.options import option, split_words

from .arms import ARMS, Target

BUDGETS = ("steps", "tokens", "time", "target_quality")
ORDERS = ("size", "scripts")


@dataclass
class StudyArguments:
    """Options of a study: what is compared, at what budget, and how trials run.

    Raises:
        ValueError: On a value that is not supported; the message says what is allowed.

    Example:

        >>> study = StudyArguments(languages="2,1", seeds="2", budget_value="300", arms="mono,hybrid")
        >>> study.counts, study.seed_list, study.arm_list, study.amount
        ([1, 2], [1, 2], ['mono', 'hybrid'], 300.0)
    """

    study_dir: str = option("runs/study", "The folder of the study.")
    languages: str = option("1,2,4,8,16", "Numbers of training languages, L; with --plan the one that is wanted.")
    order: str = option(
        "size", "Order of the languages, whose first L a trial has: size, scripts (variety first), or codes."
    )
    arms: str = option(",".join(ARMS), "Comma-separated ways to get a retriever; all by default.")
    seeds: str = option("3", "How many seeds, 1 and up; or a list of seeds with a comma in it.")
    budget: str = option("steps", f"What all trials have the same of: {', '.join(BUDGETS)}.")
    budget_value: str | None = option(
        None, "Steps, tokens, or seconds of training, of a trial; or as in multilingual/MAP=0.5."
    )
    target: str | None = option(
        None, "Quality whose cost is read off, as in multilingual/MAP=0.5; target_quality has it as its value."
    )
    train_config: str = option(
        "sample/hybrid", "Settings of `hf-hybrid train` that all trials begin with: a YAML file, or a name."
    )
    train_options: str = option(
        "", "Further options of `hf-hybrid train` for all trials: --train_options='--global_batch_size 32'."
    )
    mlm_config: str = option("sample/mlm", "Settings of `hf-hybrid mlm`, for its arms.")
    mlm_options: str = option("", "Likewise of `hf-hybrid mlm`.")
    train_corpus: str | None = option(None, "Folder or preset to train on; by default that of train_config.")
    eval_corpus: str | None = option(
        None, "Folder or preset to evaluate on; by default that of train_config, else items held out."
    )
    eval_languages: str | None = option(
        None, "Comma-separated codes, the same for all trials; by default the largest set of training languages."
    )
    model_name_or_path: str | None = option(
        None, "Base checkpoint; without it one from scratch for each seed, which all trials of the seed share."
    )
    eval_every: int | None = option(None, "Steps between the points of the quality curve; by default a tenth of all.")
    pilot_steps: int = option(20, "Steps of the short runs that a budget of time is measured with.")
    own_cache: bool = option(True, "Each trial tokenizes for itself, so that set-up times can be compared.")
    jobs: int = option(1, "Trials that run at a time.")
    threads: int | None = option(None, "Threads of each; by default the cores of this machine shared out.")
    launch: str | None = option(
        None, "What starts `-m hf_hybrid train` and its like, as in 'accelerate launch'; by default this Python."
    )
    only: str | None = option(None, "Only trials whose id matches one of these patterns: 'hybrid-L4-*,bm25'.")
    trial: int | None = option(None, "Only the trial of this number, from 0 on, as --list shows them: for job arrays.")
    retry_failed: bool = option(False, "Run trials again that have failed.")

    def __post_init__(self) -> None:
        self.counts = sorted({_whole(word, "languages", 1) for word in split_words(self.languages)})
        self.arm_list = list(dict.fromkeys(split_words(self.arms)))
        if unknown := [arm for arm in self.arm_list if arm not in ARMS]:
            raise ValueError(f"arms: {unknown[0]!r} is not known; allowed are {', '.join(ARMS)}.")
        numbers = [_whole(word, "seeds", 0) for word in split_words(self.seeds)]
        listed = len(numbers) > 1 or self.seeds.rstrip().endswith(",")
        self.seed_list = sorted(set(numbers)) if listed else list(range(1, numbers[0] + 1)) if numbers else []
        for name in ("counts", "arm_list", "seed_list"):
            if not getattr(self, name):
                raise ValueError(f"{name.partition('_')[0]}: nothing is left of it; give at least one.")
        for name in ("jobs", "threads", "eval_every", "pilot_steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value}: allowed is a whole number from 1 on.")
        if os.path.isfile(self.study_dir) or not self.study_dir.strip():
            raise ValueError(f"study_dir={self.study_dir!r}: name a folder.")
        self._check_budget()

    def _check_budget(self) -> None:
        if self.budget not in BUDGETS:
            raise ValueError(f"budget={self.budget!r}: allowed are {', '.join(BUDGETS)}.")
        self.aim = Target.parse(self.target) if self.target else None
        self.amount: float | None = None
        if self.budget == "target_quality":
            if self.target or not self.budget_value:
                raise ValueError("budget=target_quality: give the target as budget_value, as in multilingual/MAP=0.5.")
            self.aim = Target.parse(self.budget_value)
        elif self.budget_value is not None:
            self.amount = float(_number(self.budget_value, "budget_value"))
            if self.amount < 1 and self.budget != "time":
                raise ValueError(f"budget_value={self.budget_value}: {self.budget} are a number from 1 on.")
        elif self.budget in ("tokens", "time"):
            raise ValueError(f"budget={self.budget}: say how much, with budget_value.")

    def words_of(self, name: str) -> dict[str, str]:
        """`train_options` or `mlm_options` by name.

        Example:

            >>> StudyArguments(train_options="--max_steps 9 --mix=pool=1").words_of("train_options")
            {'max_steps': '9', 'mix': 'pool=1'}
        """
        import shlex

        found: dict[str, str] = {}
        words = shlex.split(getattr(self, name))
        while words:
            option, _, value = words.pop(0).partition("=")
            if not option.startswith("--") or not (value or words):
                raise ValueError(f"{name}: expected --option value, got {option!r}.")
            found[option[2:].replace("-", "_")] = value or words.pop(0)
        return found


def _whole(word: str, name: str, least: int) -> int:
    if not re.fullmatch(r"\d{1,9}", word) or int(word) < least:
        raise ValueError(f"{name}: {word!r}: allowed are whole numbers from {least} on, with commas between them.")
    return int(word)


def _number(word: str, name: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name}={word!r}: allowed is a number above 0.")
    return number
