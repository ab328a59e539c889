"""Arguments of `hf-hybrid scale`."""

from __future__ import annotations

import math
import os
import re
import shlex
from dataclasses import dataclass

from hf_hybrid.utils.options import check_ranges, option, split_words

from .arms import ARMS, Target

BUDGETS = ("steps", "tokens", "time", "target_quality")
_MOST_STEPS = 100_000_000


@dataclass
class StudyArguments:
    """Options of a study: what it compares, at what budget, and how its trials run.

    Raises:
        ValueError: When a value is not supported; the message says what is allowed.

    Example:

        >>> study = StudyArguments(languages="2,1", seeds="2", budget_value="300", arms="mono,hybrid")
        >>> study.counts, study.seed_list, study.arm_list, study.amount
        ([1, 2], [1, 2], ['mono', 'hybrid'], 300.0)
    """

    study_dir: str = option("runs/study", "Folder of the study.")
    languages: str = option(
        "1,2,4,8,16", "Comma-separated numbers of training languages, L. With --plan, the number to plan for."
    )
    order: str = option(
        "size", "Order in which languages are added: size (largest first), scripts (new scripts first), or codes."
    )
    arms: str = option(",".join(ARMS), "Comma-separated arms: ways to get a retriever.")
    seeds: str = option("3", "Number of seeds, or comma-separated seeds ('7,' is the seed 7).")
    budget: str = option("steps", f"What all trials have the same amount of: {', '.join(BUDGETS)}.")
    budget_value: str | None = option(
        None, "Steps, tokens or seconds of each trial. For target_quality, a target such as multilingual/MAP=0.5."
    )
    target: str | None = option(
        None, "Report the cost of this quality, such as multilingual/MAP=0.5. For target_quality, use --budget_value."
    )
    train_config: str = option("sample/hybrid", "Settings of `hf-hybrid train` for all trials: a YAML file or a name.")
    train_options: str = option(
        "", "More options of `hf-hybrid train` for all trials: --train_options='--global_batch_size 32'."
    )
    mlm_config: str = option("sample/mlm", "Settings of `hf-hybrid mlm` for all trials: a YAML file or a name.")
    mlm_options: str = option("", "More options of `hf-hybrid mlm` for all trials.")
    train_corpus: str | None = option(None, "Folder or preset to train on. Default: that of train_config.")
    eval_corpus: str | None = option(
        None, "Folder or preset to evaluate on. Default: that of train_config, or items held out from training."
    )
    eval_languages: str | None = option(
        None, "Comma-separated evaluation languages of all trials. Default: the largest set of training languages."
    )
    model_name_or_path: str | None = option(
        None, "Base checkpoint of all trials. Default: a model from scratch for each seed."
    )
    eval_every: int | None = option(
        None, "Steps between the points of the quality curve. Default: a tenth of all steps.", within=(1, _MOST_STEPS)
    )
    pilot_steps: int = option(20, "Steps of the short runs that measure a budget of time.", within=(1, _MOST_STEPS))
    own_cache: bool = option(True, "Let each trial tokenize for itself, so that set-up times can be compared.")
    jobs: int = option(1, "Trials that run at a time.", within=(1, 10_000))
    threads: int | None = option(
        None, "CPU threads of each trial. Default: the cores of this machine divided by jobs.", within=(1, 10_000)
    )
    launch: str | None = option(
        None, "Launcher of `-m hf_hybrid train`, such as 'accelerate launch'. Default: this Python."
    )
    only: str | None = option(None, "Run only trials whose id matches one of these patterns: 'hybrid-L4-*,bm25'.")
    trial: int | None = option(None, "Run only the trial of this number, from 0, as --list shows it: for job arrays.")
    retry_failed: bool = option(False, "Run failed trials again.")

    def __post_init__(self) -> None:
        self.counts = sorted({_parse_whole(word, "languages", 1) for word in split_words(self.languages)})
        self.arm_list = list(dict.fromkeys(split_words(self.arms)))
        if unknown := [arm for arm in self.arm_list if arm not in ARMS]:
            raise ValueError(f"arms: {unknown[0]!r} is not known; allowed are {', '.join(ARMS)}.")
        numbers = [_parse_whole(word, "seeds", 0) for word in split_words(self.seeds)]
        is_number = len(numbers) == 1 and not self.seeds.rstrip().endswith(",")
        self.seed_list = list(range(1, numbers[0] + 1)) if is_number else sorted(set(numbers))
        for name, found in (("languages", self.counts), ("arms", self.arm_list), ("seeds", self.seed_list)):
            if not found:
                raise ValueError(f"{name}: got {getattr(self, name)!r}. Give at least one.")
        check_ranges(self)
        if os.path.isfile(self.study_dir) or not self.study_dir.strip():
            raise ValueError(f"study_dir={self.study_dir!r}: name a folder.")
        self._set_budget()

    def _set_budget(self) -> None:
        if self.budget not in BUDGETS:
            raise ValueError(f"budget={self.budget!r}: allowed are {', '.join(BUDGETS)}.")
        self.aim = Target.parse(self.target) if self.target else None
        self.amount: float | None = None
        if self.budget == "target_quality":
            if self.target or not self.budget_value:
                raise ValueError("budget=target_quality: give the target as budget_value, as in multilingual/MAP=0.5.")
            self.aim = Target.parse(self.budget_value)
        elif self.budget_value is not None:
            try:
                self.amount = float(self.budget_value)
            except ValueError:
                self.amount = math.nan
            if not 0 < self.amount < math.inf or (self.amount < 1 and self.budget != "time"):
                allowed = "a number above 0" if self.budget == "time" else "a number from 1 on"
                raise ValueError(f"budget_value={self.budget_value!r}: a budget of {self.budget} is {allowed}.")
        elif self.budget in ("tokens", "time"):
            raise ValueError(f"budget={self.budget}: say how much, with budget_value.")

    def read_options(self, name: str) -> dict[str, str]:
        """Return the options in `train_options` or `mlm_options`.

        Example:

            >>> StudyArguments(train_options="--max_steps 9 --mix=pool=1").read_options("train_options")
            {'max_steps': '9', 'mix': 'pool=1'}
        """
        found: dict[str, str] = {}
        words = shlex.split(getattr(self, name))
        while words:
            word, _, value = words.pop(0).partition("=")
            if not word.startswith("--") or not (value or words):
                raise ValueError(f"{name}: expected --option value, got {word!r}.")
            found[word[2:].replace("-", "_")] = value or words.pop(0)
        return found


def _parse_whole(word: str, name: str, least: int) -> int:
    if not re.fullmatch(r"\d{1,9}", word) or int(word) < least:
        raise ValueError(f"{name}: {word!r}: allowed are comma-separated whole numbers from {least} on.")
    return int(word)
