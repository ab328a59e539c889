"""The grid of a scaling study: its trials, and the commands that run them. Nothing is trained here.

1. Languages have one order. A trial with L languages has the first L, so that sets are nested (`order_languages`).
2. An *arm* is a way to get a retriever. The grid has a trial for each arm, L and seed, and a reason for each
   combination that cannot exist (`build_grid`).
3. A trial has *stages*: commands with their options, which run one after the other (`build_stages`). Paths within the
   study begin with `{study}`, so that the folder may be moved.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypedDict

from hf_hybrid.data.batches.mix import MixConfig
from hf_hybrid.utils.options import split_words
from hf_hybrid.utils.text import join_names, to_plain_text

STUDY = "{study}"  # stands for the folder of the study in options
LOWER_IS_BETTER = ("rank_distance", "same_language_share@10")  # of all measures
_TARGET = re.compile(r"\s*([a-z_]+/[^=\s]+)\s*=\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d\d?)?)\s*")


class Arm(NamedTuple):
    """A way to get a retriever."""

    label: str  # in charts and tables
    text: str
    mix: str | None = None  # of contrastive batches; None without contrastive training
    mlm: bool = False  # whether masked language modeling comes first
    least: int = 1  # fewest languages that it can have
    only: tuple[str, ...] = ()  # its languages, if they are always the same
    bm25: bool = False  # whether it needs no model

    @property
    def trains(self) -> bool:
        """Whether the arm trains."""
        return self.mlm or self.mix is not None


ARMS = {
    "zero_shot": Arm("base model", "the base model untouched"),
    "bm25": Arm("BM25", "BM25, without a model", bm25=True),
    "english": Arm("English only", "monolingual batches in English alone", "mono=1", only=("en",)),
    "mono": Arm("mono", "monolingual batches", "mono=1"),
    "cross": Arm("cross", "cross-lingual batches", "cross=1", least=2),
    "hybrid": Arm("hybrid", "monolingual and cross-lingual batches in equal shares", "mono=0.5,cross=0.5", least=2),
    "pool": Arm("pool", "pool batches", "pool=1", least=2),
    "mono_cross_pool": Arm(
        "mono+cross+pool", "all three batch types in equal shares", "mono=1,cross=1,pool=1", least=2
    ),
    "mixed": Arm("mixed", "two languages for each item of a batch", "mixed=1", least=2),
    "mlm": Arm("MLM", "masked language modeling as in mBERT, evaluated untouched", mlm=True),
    "mlm_hybrid": Arm(
        "MLM + hybrid", "masked language modeling, then hybrid batches", "mono=0.5,cross=0.5", mlm=True, least=2
    ),
}
FIXED_LANGUAGES = tuple(dict.fromkeys(code for arm in ARMS.values() for code in arm.only))  # of any arm


class Stage(TypedDict):
    """A command of a trial."""

    name: str  # "train", "mlm" or "eval"
    recipe: str  # "train.py", "mlm.py" or "eval.py"
    folder: str  # of its files
    options: dict[str, str]


class Trial(TypedDict):
    """One arm at one number of languages with one seed."""

    id: str
    arm: str
    num_languages: int  # trained on; 0 without training
    languages: list[str]
    seed: int | None  # None if nothing depends on it
    stages: list[Stage]


class Absent(TypedDict):
    """A combination that cannot exist."""

    id: str
    arm: str
    num_languages: int
    reason: str


class Target(NamedTuple):
    """A quality to reach.

    Args:
        measure (`str`): A measure such as `multilingual/MAP`.
        value (`float`): The value to reach.

    Example:

        >>> Target.parse("multilingual/MAP=0.5"), Target("bias/rank_distance", 300).is_reached(280)
        (Target(measure='multilingual/MAP', value=0.5), True)
    """

    measure: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read `setting/measure=value`."""
        found = _TARGET.fullmatch(text)
        if found is None:
            raise ValueError(f"target {text!r}: write it as in multilingual/MAP=0.5, or bias/rank_distance=300.")
        return cls(found[1], float(found[2]))

    def is_reached(self, value: float) -> bool:
        """Return whether a value reaches the target."""
        lower = self.measure.partition("/")[2] in LOWER_IS_BETTER
        return value <= self.value if lower else value >= self.value


# Step 1


def order_languages(order: str, sizes: Mapping[str, int]) -> list[str]:
    """Return the languages in the order in which they are added.

    Args:
        order (`str`): `size`: the largest first; `scripts`: the largest in the script that is rarest so far; or codes.
        sizes (`Mapping[str, int]`): Number of items of each language.

    Example:

        >>> sizes = {"de": 9, "en": 8, "ru": 7, "uk": 6, "zh": 5}
        >>> order_languages("size", sizes), order_languages("scripts", sizes), order_languages("zh, en", sizes)
        (['de', 'en', 'ru', 'uk', 'zh'], ['de', 'ru', 'zh', 'en', 'uk'], ['zh', 'en'])
    """
    by_size = sorted(sizes, key=lambda code: (-sizes[code], code))
    if order == "size":
        return by_size
    if order == "scripts":
        used: Counter[str] = Counter()
        found: list[str] = []
        while by_size:
            code = min(by_size, key=lambda code: used[find_script(code)])
            used[find_script(code)] += 1
            by_size.remove(code)
            found.append(code)
        return found
    codes = split_words(order)
    if unknown := [code for code in codes if code not in sizes]:
        raise ValueError(
            f"order: the corpus has no {unknown[0]!r}. Allowed are size, scripts, and codes of {', '.join(sizes)}."
        )
    if len(set(codes)) < len(codes):
        raise ValueError(f"order={order!r}: names a language twice.")
    return codes


def find_script(code: str) -> str:
    """Return the ISO 15924 code of the script that a language is mostly written in.

    Example:

        >>> find_script("el"), find_script("sr-Latn")
        ('Grek', 'Latn')
    """
    import langcodes

    return str(langcodes.Language.get(code).maximize().script)


def nest_languages(order: Sequence[str], counts: Sequence[int]) -> dict[int, list[str]]:
    """Return the first L languages for each L.

    Raises:
        ValueError: When the order has fewer languages.
    """
    if max(counts) > len(order):
        raise ValueError(f"languages: got {max(counts)}, but the order has only {len(order)}: {', '.join(order)}.")
    return {count: list(order[:count]) for count in counts}


# Step 2


def build_grid(
    arms: Sequence[str],
    sets: Mapping[int, Sequence[str]],
    seeds: Sequence[int],
    corpus_languages: Sequence[str],
    from_scratch: bool,
) -> tuple[list[Trial], list[Absent]]:
    """Return all trials, without their stages, and the combinations that cannot exist.

    Args:
        arms (`Sequence[str]`): Names in `ARMS`.
        sets (`Mapping[int, Sequence[str]]`): The languages for each L.
        seeds (`Sequence[int]`): The seeds.
        corpus_languages (`Sequence[str]`): Languages of the training corpus.
        from_scratch (`bool`): Whether each seed has its own base model, so that `zero_shot` has seeds.

    Example:

        >>> trials, absent = build_grid(["mono", "cross"], {1: ["de"], 2: ["de", "en"]}, [1], ["de", "en"], True)
        >>> [trial["id"] for trial in trials], absent[0]["id"], absent[0]["reason"]
        (['mono-L1-seed1', 'mono-L2-seed1', 'cross-L2-seed1'], 'cross-L1', 'cross needs at least 2 languages')
    """
    trials: list[Trial] = []
    absent: list[Absent] = []
    for name in arms:
        arm = ARMS[name]
        if not arm.trains:
            trials += [_trial(name, [], seed) for seed in (seeds if from_scratch and not arm.bm25 else [None])]
            continue
        for count, languages in ({len(arm.only): arm.only} if arm.only else sets).items():
            if missing := [code for code in languages if code not in corpus_languages]:
                reason = f"the training corpus has no {missing[0]}"
            elif count < arm.least:
                reason = f"{name} needs at least {arm.least} languages"
            else:
                trials += [_trial(name, languages, seed) for seed in seeds]
                continue
            key = make_budget_key(name, count)
            absent.append({"id": key, "arm": name, "num_languages": count, "reason": reason})
    return trials, absent


def _trial(arm: str, languages: Sequence[str], seed: int | None) -> Trial:
    key = make_budget_key(arm, len(languages)) if languages else arm
    return {
        "id": key if seed is None else f"{key}-seed{seed}",
        "arm": arm,
        "num_languages": len(languages),
        "languages": list(languages),
        "seed": seed,
        "stages": [],
    }


def make_budget_key(arm: str, num_languages: int) -> str:
    """Return the key of the trials that have the same number of steps: all seeds of an arm at one L."""
    return f"{arm}-L{num_languages}"


# Step 3


class Shared(NamedTuple):
    """Options that all trials share."""

    corpora: dict[str, str]  # of training and evaluation, for `train` and `mlm`
    evaluation: dict[str, str]  # corpus, prompts and other options of `eval`
    base: str | None  # the base checkpoint; None if each seed has its own base model
    eval_every: int | None  # steps between points of the quality curve; None for a tenth of all steps
    own_cache: bool  # whether each trial tokenizes for itself


def build_stages(trial: Trial, shared: Shared, steps: Mapping[str, int], mlm_steps: Mapping[str, int]) -> list[Stage]:
    """Return the stages of a trial.

    Args:
        trial (`Trial`): Of `build_grid`.
        shared (`Shared`): Options of all trials.
        steps (`Mapping[str, int]`): Steps of contrastive training, by `make_budget_key`.
        mlm_steps (`Mapping[str, int]`): Steps of masked language modeling, likewise.
    """
    arm, folder = ARMS[trial["arm"]], f"{STUDY}/trials/{trial['id']}"
    base = shared.base or f"{STUDY}/base/seed-{1 if trial['seed'] is None else trial['seed']}"
    if not arm.trains:
        options = {"model": base, **shared.evaluation, "output_dir": folder}
        if arm.bm25:
            options["bm25"] = "true"
        return [_stage("eval", f"{folder}/bm25" if arm.bm25 else folder, options)]  # eval makes the folder bm25

    def training(name: str, folder: str, base: str, num_steps: int, **more: str) -> Stage:
        options = {
            "config": f"{STUDY}/configs/{name}.yaml",
            "model_name_or_path": base,
            **shared.corpora,
            "languages": ",".join(trial["languages"]),
            "seed": str(trial["seed"]),
            "max_steps": str(num_steps),
            "evaluate_before": "false",  # the zero-shot trial of the seed does that
            "eval_strategy": "steps",
            "eval_steps": str(shared.eval_every or max(1, math.ceil(num_steps / 10))),
            "output_dir": folder,
            **more,
        }
        cache = {"cache_dir": f"{STUDY}/trials/{trial['id']}/cache"} if shared.own_cache else {}
        return _stage(name, folder, options | cache)

    key, stages = make_budget_key(trial["arm"], trial["num_languages"]), []
    if arm.mlm:
        mlm_folder = f"{folder}/mlm" if arm.mix else folder
        stages.append(training("mlm", mlm_folder, base, mlm_steps[key]))
        base = f"{mlm_folder}/model"
    if arm.mix:
        stages.append(training("train", folder, base, steps[key], mix=str(MixConfig.parse(arm.mix))))
    return stages


def _stage(name: str, folder: str, options: dict[str, str]) -> Stage:
    return {"name": name, "recipe": f"{name}.py", "folder": folder, "options": options}


def build_command(stage: Stage, study_dir: str, launch: Sequence[str]) -> list[str]:
    """Return the words of the command line of a stage.

    Args:
        stage (`Stage`): Of a trial.
        study_dir (`str`): The folder of the study.
        launch (`Sequence[str]`): The launcher: Python, `accelerate launch` or `torchrun`.

    Example:

        >>> stage = {"name": "train", "recipe": "train.py", "folder": "{study}/trials/a", "options": {"seed": "1"}}
        >>> build_command(stage, "runs/x", ["python"])
        ['python', '-m', 'hf_hybrid', 'train', '--seed', '1']
    """
    words = [
        word for name, value in stage["options"].items() for word in (f"--{name}", insert_study(value, study_dir))
    ]
    return [*launch, "-m", "hf_hybrid", stage["name"], *words]


def insert_study(text: str, study_dir: str) -> str:
    """Return an option or a path of a stage with the folder of the study in place of `{study}`."""
    return text.replace(STUDY, str(study_dir))


# Selection and comparison


def select_trials(trials: Sequence[Trial], only: str | None, number: int | None) -> list[Trial]:
    """Return the trials that match `--only` and `--trial`.

    Raises:
        ValueError: When no trial matches.
    """
    if number is not None and not 0 <= number < len(trials):
        raise ValueError(f"trial={number}: the study has the trials 0 to {len(trials) - 1}, see --list.")
    among = list(trials) if number is None else [trials[number]]
    patterns = split_words(only) if only else ["*"]
    found = [trial for trial in among if any(fnmatchcase(trial["id"], pattern) for pattern in patterns)]
    if not found:
        ids = join_names([trial["id"] for trial in among])
        raise ValueError(f"only={only!r} matches no trial. The trials are {ids}; see --list.")
    return found


def find_changed_setting(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return in words the first setting that has changed; `None` if none has.

    Args:
        earlier, now (`Mapping[str, Any]`): Settings; only those in `now` are compared.
    """
    for name, value in now.items():
        if earlier[name] != value:
            return f"{name} was {to_plain_text(str(earlier[name]), 200)} and is {to_plain_text(str(value), 200)}"
    return None


def find_changed_trial(earlier: Sequence[Trial], now: Sequence[Trial]) -> str | None:
    """Return in words the first earlier trial that is missing now or differs; `None` if all are the same.

    Example:

        >>> trials, _ = build_grid(["mono"], {1: ["de"], 2: ["de", "en"]}, [1, 2], ["de", "en"], True)
        >>> find_changed_trial(trials[:2], trials) is None, find_changed_trial(trials, trials[:3])
        (True, 'this command has no mono-L2-seed2; choose trials with --only')
    """
    known = {trial["id"]: trial for trial in now}
    if missing := [trial["id"] for trial in earlier if trial["id"] not in known]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return f"this command has no {missing[0]}{more}; choose trials with --only"
    for trial in earlier:
        if (now_trial := known[trial["id"]]) != trial:
            before, after = _list_options(trial), _list_options(now_trial)
            names = {**before, **after}
            changed = find_changed_setting(*({name: found.get(name) for name in names} for found in (before, after)))
            return f"{trial['id']} would change: {changed or 'its stages differ'}"
    return None


def _list_options(trial: Trial) -> dict[str, str]:
    options = {
        f"{stage['name']} {name}": value for stage in trial["stages"] for name, value in stage["options"].items()
    }
    return {"languages": ", ".join(trial["languages"]), **options}
