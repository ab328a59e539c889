"""The grid of a scaling study: which trials there are, and which commands make them. It trains nothing itself.

1. Languages stand in one order; a trial with L of them has the first L, so that sets are nested (`language_order`).
2. An *arm* is a way to get a retriever. The grid has a trial for each arm, L and seed; what an L cannot have is told
   with the reason (`grid`).
3. A trial has *stages*: a recipe with its options, run one after the other in the folder of the trial
   (`stages_of`). Paths within the study begin with `{study}`, so that it may lie anywhere.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from hf_hybrid.data.batches.mix import MixConfig

STUDY = "{study}"  # stands for the folder in options
_MOST_NAMED = 20  # trials in a message
LOWER_IS_BETTER = ("rank_distance", "same_language_share@10")  # of all measures


class Arm(NamedTuple):
    """A way to get a retriever.

    Args:
        text (`str`): In words.
        mix (`str`, *optional*): Of contrastive batches; None where there are none.
        mlm (`bool`, *optional*, defaults to `False`): Masked language modeling comes first.
        least (`int`, *optional*, defaults to 1): The fewest languages it can have.
    """

    text: str
    mix: str | None = None
    mlm: bool = False
    least: int = 1

    @property
    def trains(self) -> bool:
        """Whether the arm trains."""
        return self.mlm or self.mix is not None


ARMS = {
    "zero_shot": Arm("the base model untouched"),
    "bm25": Arm("BM25, without a model"),
    "english": Arm("monolingual batches in English alone", "mono=1"),
    "mono": Arm("monolingual batches", "mono=1"),
    "cross": Arm("cross-lingual batches", "cross=1", least=2),
    "hybrid": Arm("monolingual and cross-lingual batches in equal shares", "mono=0.5,cross=0.5", least=2),
    "pool": Arm("pool batches", "pool=1", least=2),
    "mono_cross_pool": Arm("all three batch types in equal shares", "mono=1,cross=1,pool=1", least=2),
    "mixed": Arm("two languages for each item of a batch", "mixed=1", least=2),
    "mlm": Arm("masked language modeling as in mBERT, evaluated untouched", mlm=True),
    "mlm_hybrid": Arm("the same, then hybrid batches", "mono=0.5,cross=0.5", mlm=True, least=2),
}


class Stage(TypedDict):
    """A recipe of a trial."""

    name: str  # "train", "mlm" or "eval"
    recipe: str  # of `hf-hybrid train`, `mlm` or `eval` the recipe: "train.py"
    folder: str  # where its files go
    options: dict[str, str]


class Trial(TypedDict):
    """A trial of the grid."""

    id: str
    arm: str
    num_languages: int  # trained on; 0 where nothing is trained
    languages: list[str]
    seed: int | None  # None where nothing depends on it
    stages: list[Stage]


class Absent(TypedDict):
    """A combination that cannot exist."""

    id: str
    arm: str
    num_languages: int
    reason: str


class Target(NamedTuple):
    """A quality to be reached.

    Args:
        measure (`str`): As in `multilingual/MAP`.
        value (`float`): Where it is reached.

    Example:

        >>> Target.parse("multilingual/MAP=0.5"), Target("bias/rank_distance", 300).is_reached(280)
        (Target(measure='multilingual/MAP', value=0.5), True)
    """

    measure: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read `setting/measure=value`."""
        found = re.fullmatch(r"\s*([a-z_]+/[^=\s]+)\s*=\s*([0-9.eE+-]+)\s*", text)
        try:
            value = float(found[2]) if found else math.nan
        except ValueError:
            value = math.nan
        if found is None or not math.isfinite(value):
            raise ValueError(f"target {text!r}: write it as in multilingual/MAP=0.5, or bias/rank_distance=300.")
        return cls(found[1], value)

    def is_reached(self, value: float) -> bool:
        """Return whether a value reaches the target."""
        lower = self.measure.partition("/")[2] in LOWER_IS_BETTER
        return value <= self.value if lower else value >= self.value


def language_order(order: str, sizes: Mapping[str, int]) -> list[str]:
    """The languages in the order in which they are added.

    Args:
        order (`str`): `size`: the largest first; `scripts`: the largest of a script that is rarest so far; or codes.
        sizes (`Mapping[str, int]`): Items of each language.

    Example:

        >>> sizes = {"de": 9, "en": 8, "ru": 7, "uk": 6, "zh": 5}
        >>> language_order("size", sizes), language_order("scripts", sizes), language_order("zh, en", sizes)
        (['de', 'en', 'ru', 'uk', 'zh'], ['de', 'ru', 'zh', 'en', 'uk'], ['zh', 'en'])
    """
    by_size = sorted(sizes, key=lambda code: (-sizes[code], code))
    if order == "size":
        return by_size
    if order == "scripts":
        used: Counter[str] = Counter()
        found: list[str] = []
        for _ in by_size:
            code = min((code for code in by_size if code not in found), key=lambda code: used[script_of(code)])
            used[script_of(code)] += 1
            found.append(code)
        return found
    codes = [code.strip() for code in order.split(",") if code.strip()]
    if unknown := [code for code in codes if code not in sizes]:
        raise ValueError(f"order: the corpus has no {unknown[0]!r}; it has {', '.join(sizes)}. Or: size, scripts.")
    if len(set(codes)) < len(codes):
        raise ValueError(f"order={order!r}: a language is given twice.")
    return codes


def script_of(code: str) -> str:
    """The script that a language is mostly written in, as ISO 15924 names it.

    Example:

        >>> script_of("el"), script_of("sr-Latn")
        ('Grek', 'Latn')
    """
    import langcodes

    return str(langcodes.Language.get(code).maximize().script)


def language_sets(order: Sequence[str], counts: Sequence[int]) -> dict[int, list[str]]:
    """The first L languages for each L.

    Raises:
        ValueError: When there are fewer.
    """
    if max(counts) > len(order):
        raise ValueError(f"languages: {max(counts)} are asked for, but there are {len(order)}: {', '.join(order)}.")
    return {count: list(order[:count]) for count in counts}


def grid(
    arms: Sequence[str],
    sets: Mapping[int, Sequence[str]],
    seeds: Sequence[int],
    corpus_languages: Sequence[str],
    from_scratch: bool,
) -> tuple[list[Trial], list[Absent]]:
    """All trials, without their stages, and what there cannot be.

    Args:
        arms (`Sequence[str]`): Names in `ARMS`.
        sets (`Mapping[int, Sequence[str]]`): The languages for each L.
        seeds (`Sequence[int]`): The seeds.
        corpus_languages (`Sequence[str]`): Of the training corpus, for `english`.
        from_scratch (`bool`): Whether each seed has a base model of its own: only then has `zero_shot` seeds.

    Example:

        >>> trials, absent = grid(["mono", "cross"], {1: ["de"], 2: ["de", "en"]}, [1], ["de", "en"], True)
        >>> [trial["id"] for trial in trials], absent[0]["id"], absent[0]["reason"]
        (['mono-L1-seed1', 'mono-L2-seed1', 'cross-L2-seed1'], 'cross-L1', 'cross needs 2 languages at the least')
    """
    trials: list[Trial] = []
    absent: list[Absent] = []
    for name in arms:
        arm = ARMS[name]
        if not arm.trains:
            trials += [_trial(name, [], seed) for seed in (seeds if name == "zero_shot" and from_scratch else [None])]
            continue
        for count, languages in ({1: ["en"]} if name == "english" else sets).items():
            reason = f"{name} needs {arm.least} languages at the least" if count < arm.least else None
            if not set(languages) <= set(corpus_languages):
                reason = "the training corpus has no en"
            if reason:
                absent.append({"id": f"{name}-L{count}", "arm": name, "num_languages": count, "reason": reason})
            else:
                trials += [_trial(name, languages, seed) for seed in seeds]
    return trials, absent


def _trial(arm: str, languages: Sequence[str], seed: int | None) -> Trial:
    parts = [arm, *([f"L{len(languages)}"] if languages else []), *([f"seed{seed}"] if seed is not None else [])]
    return {
        "id": "-".join(parts),
        "arm": arm,
        "num_languages": len(languages),
        "languages": list(languages),
        "seed": seed,
        "stages": [],
    }


class Shared(NamedTuple):
    """Options that trials share.

    Args:
        corpora (`dict[str, str]`): Of training and evaluation, for `train.py` and `mlm.py`.
        evaluation (`dict[str, str]`): Of `eval.py`: corpus, prompts and the like.
        base (`str`, *optional*): The base checkpoint; None where each seed has one of its own.
        eval_every (`int`, *optional*): Steps between points of the curve; None for a tenth.
        own_cache (`bool`): Whether each trial tokenizes for itself.
    """

    corpora: dict[str, str]
    evaluation: dict[str, str]
    base: str | None
    eval_every: int | None
    own_cache: bool

    def base_of(self, seed: int | None) -> str:
        """The model that a trial begins with."""
        return self.base or f"{STUDY}/base/seed-{seed}"


def budget_key(arm: str, num_languages: int) -> str:
    """Trials that have the same number of steps."""
    return f"{arm}-L{num_languages}"


def stages_of(trial: Trial, shared: Shared, steps: Mapping[str, int], mlm_steps: Mapping[str, int]) -> list[Stage]:
    """Return the stages of a trial.

    Args:
        trial (`Trial`): Of `grid`.
        shared (`Shared`): What all trials have.
        steps (`Mapping[str, int]`): Of contrastive training, by `budget_key`.
        mlm_steps (`Mapping[str, int]`): Of masked language modeling, likewise.
    """
    arm, folder, seed = ARMS[trial["arm"]], f"{STUDY}/trials/{trial['id']}", trial["seed"]
    if not arm.trains:
        first = seed if seed is not None else 1
        options = {"model": shared.base_of(first), **shared.evaluation, "output_dir": folder}
        if trial["arm"] == "bm25":  # which eval.py puts in a folder of its own, beside a model
            options["bm25"] = "true"
            return [{"name": "eval", "recipe": "eval.py", "folder": f"{folder}/bm25", "options": options}]
        return [{"name": "eval", "recipe": "eval.py", "folder": folder, "options": options}]
    key, base, stages = budget_key(trial["arm"], trial["num_languages"]), shared.base_of(seed), []
    if arm.mlm:
        place = f"{folder}/mlm" if arm.mix else folder
        stages.append(_training(trial, shared, "mlm", place, base, mlm_steps[key], {}))
        base = f"{place}/model"
    if arm.mix:
        stages.append(
            _training(trial, shared, "train", folder, base, steps[key], {"mix": str(MixConfig.parse(arm.mix))})
        )
    return stages


def _training(
    trial: Trial, shared: Shared, name: str, folder: str, base: str, steps: int, more: Mapping[str, str]
) -> Stage:
    every = shared.eval_every or max(1, math.ceil(steps / 10))
    options = {
        "config": f"{STUDY}/configs/{name}.yaml",
        "model_name_or_path": base,
        **shared.corpora,
        "languages": ",".join(trial["languages"]),
        "seed": str(trial["seed"]),
        "max_steps": str(steps),
        "evaluate_before": "false",  # that is the zero-shot trial of the seed
        "eval_strategy": "steps",
        "eval_steps": str(every),
        "output_dir": folder,
        **more,
    }
    if shared.own_cache:
        options["cache_dir"] = f"{STUDY}/trials/{trial['id']}/cache"
    return {"name": name, "recipe": f"{name}.py", "folder": folder, "options": options}


def command_of(stage: Stage, study_dir: str, launch: Sequence[str]) -> list[str]:
    """Return the words of the command line of a stage.

    Args:
        stage (`Stage`): Of a trial.
        study_dir (`str`): The folder of the study.
        launch (`Sequence[str]`): What starts a module: Python, `accelerate launch` or `torchrun`.

    Example:

        >>> stage = {"name": "train", "recipe": "train.py", "folder": "{study}/trials/a", "options": {"seed": "1"}}
        >>> command_of(stage, "runs/x", ["python"])
        ['python', '-m', 'hf_hybrid', 'train', '--seed', '1']
    """
    words = [word for name, value in stage["options"].items() for word in (f"--{name}", in_study(value, study_dir))]
    return [*launch, "-m", "hf_hybrid", stage["recipe"].removesuffix(".py"), *words]


def in_study(text: str, study_dir: str) -> str:
    """A path or text of a stage, with the folder of the study in it."""
    return text.replace(STUDY, str(study_dir))


def select_trials(trials: Sequence[Trial], only: str | None, number: int | None) -> list[Trial]:
    """The trials that are asked for.

    Raises:
        ValueError: When there is none.
    """
    from fnmatch import fnmatchcase

    if number is not None and not 0 <= number < len(trials):
        raise ValueError(f"trial={number}: the study has the trials 0 to {len(trials) - 1}, see --list.")
    found = list(trials) if number is None else [trials[number]]
    patterns = [word.strip() for word in only.split(",")] if only else ["*"]
    ids = [trial["id"] for trial in found]
    found = [trial for trial in found if any(fnmatchcase(trial["id"], pattern) for pattern in patterns)]
    if not found:
        more = f" and {len(ids) - _MOST_NAMED} more, see --list" if len(ids) > _MOST_NAMED else ""
        raise ValueError(f"only={only!r} matches no trial; there are {', '.join(ids[:_MOST_NAMED])}{more}.")
    return found


def difference_of_settings(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say which shared setting has changed; `None` if none has.

    Args:
        earlier, now (`Mapping[str, Any]`): Contents of `study.json`, of `now` only these.
    """
    for name, value in now.items():
        if earlier[name] != value:
            return f"{name} was {_brief(earlier[name])} and is {_brief(value)}"
    return None


def difference_of_trials(earlier: Sequence[Trial], now: Sequence[Trial]) -> str | None:
    """Say why the trials do not include the earlier ones; `None` if they do.

    Example:

        >>> trials, _ = grid(["mono"], {1: ["de"], 2: ["de", "en"]}, [1, 2], ["de", "en"], True)
        >>> difference_of_trials(trials[:2], trials) is None, difference_of_trials(trials, trials[:3])
        (True, 'it has mono-L2-seed2, which is not asked for now; choose trials with --only')
    """
    known = {trial["id"]: trial for trial in now}
    if missing := [trial["id"] for trial in earlier if trial["id"] not in known]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return f"it has {missing[0]}{more}, which is not asked for now; choose trials with --only"
    for trial in earlier:
        if trial != known[trial["id"]]:
            return f"{trial['id']} would be another trial: {_first_difference(trial, known[trial['id']])}"
    return None


def _first_difference(earlier: Trial, now: Trial) -> str:
    if earlier["languages"] != now["languages"]:
        return f"languages were {', '.join(earlier['languages'])} and are {', '.join(now['languages'])}"
    for one, other in zip(earlier["stages"], now["stages"], strict=False):
        for name in {**one["options"], **other["options"]}:
            before, after = one["options"].get(name), other["options"].get(name)
            if before != after:
                return f"{name} was {before} and is {after}"
    return "its stages differ"


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) < 200 else f"{text[:200]}..."
