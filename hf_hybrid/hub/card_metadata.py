"""Metadata of a model card for the Hub: its YAML header, and `.eval_results/`.

The Hub takes languages as ISO 639 codes of two or three letters and finer ones under `language_bcp47`, licenses that
it knows by name, and ids of models and data sets that are on it. It omits what is not known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData
from huggingface_hub.utils import validate_repo_id

from hf_hybrid.records.schema import SETTINGS, CardOptions, Evaluation, Plan, Resources, Run, Scores
from hf_hybrid.utils.text import to_plain_text

if TYPE_CHECKING:
    from hf_hybrid.data.sources.presets import Preset

TAGS = ("sentence-transformers", "sentence-similarity", "feature-extraction", "dense-retrieval", "hf_hybrid")
TASK = "text-retrieval"  # the Hub's name of it
ESTIMATES = ("codecarbon",)  # sources of energy that are no meter
# Of the Hub's list of licenses; another one is `other`, with its name.
_LICENSES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m "
    "afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 "
    "cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
    "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl "
    "gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql "
    "ofl-1.1 ncsa unlicense zlib pddl lgpl-lr unknown other"
)
_LICENSES_PAGE = "https://huggingface.co/docs/hub/repositories-licenses"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SCORE_DIGITS = 6


class CardFiles(NamedTuple):
    """The content of the run folder that a card is built from.

    Args:
        run (`Run`): `run.json`.
        evaluation (`Evaluation`): `eval.json`; without scores where there is none.
        resources (`Resources`, *optional*): `resources.json`.
        plan (`Plan`, *optional*): `plan.json`.
        options (`CardOptions`): `card.json`.
    """

    run: Run
    evaluation: Evaluation
    resources: Resources | None
    plan: Plan | None
    options: CardOptions

    @property
    def name(self) -> str:
        """Name of the model: that of its repository or run folder."""
        return to_plain_text((self.options.get("repo_id") or self.folder).rsplit("/", 1)[-1])

    @property
    def folder(self) -> str:
        """The name of the run folder, as the run was told it."""
        return str(self.run["config"].get("output_dir") or "run").rstrip("/").rsplit("/", 1)[-1]

    @property
    def languages(self) -> list[str]:
        """Training languages."""
        return list(self.run["corpus"]["items_per_language"])

    @property
    def model(self) -> Mapping[str, Any]:
        """The model in `run.json`; empty in older files."""
        return self.run.get("model", {})

    @property
    def base_model(self) -> str | None:
        """Hub id of the checkpoint that training began from; None where it came from a folder, or from nothing."""
        from_hub = self.model.get("commit") is not None
        found = self.options.get("base_model") or (self.run["config"].get("model_name_or_path") if from_hub else None)
        return found if is_hub_id(found) else None

    @property
    def by_recipe(self) -> bool:
        """Whether a recipe started the run, so that its arguments name the corpora."""
        return "train_corpus" in self.run["config"]

    @property
    def began_from(self) -> str | None:
        """The checkpoint that training began from, as the run was told it; None for random weights."""
        own: str | None = self.run["config"].get("model_name_or_path")
        if own is not None or self.by_recipe:
            return own
        name = str(self.run.get("identity", {}).get("model", "")).rpartition(", ")[0]  # the rest is a hash
        return name if name not in ("", "from scratch") else None

    @property
    def precision(self) -> str:
        """The precision of training and of its evaluations."""
        return next((name for name in ("bf16", "fp16") if self.run["config"].get(name)), "float32")

    @property
    def held_out(self) -> bool:
        """Whether the scores are for items held out of the training corpus."""
        no_other = self.run["config"].get("eval_corpus") is None
        return no_other and bool(self.evaluated) and self.evaluated.get("corpus") == self.run["corpus"].get("source")

    @property
    def scores(self) -> Scores | None:
        """Scores after training."""
        return self.evaluation["after"]

    @property
    def evaluated(self) -> Mapping[str, Any]:
        """What was evaluated; empty in older files."""
        return self.evaluation.get("evaluated", {})


def check_options(options: CardOptions) -> None:
    """Refuse options that the Hub would, and a carbon intensity that nobody vouches for.

    Raises:
        ValueError: With what is allowed.
    """
    ids = [options.get("repo_id"), options.get("base_model"), *(options.get("datasets") or [])]
    for given in ids:
        if given is not None and not is_hub_id(given):
            raise ValueError(f"{given!r} is no id on the Hub; allowed are ids such as user/name.")
    intensity = options.get("carbon_intensity_g_per_kwh")
    if intensity is None:
        return
    if isinstance(intensity, bool) or not isinstance(intensity, int | float) or not 0 <= intensity < math.inf:
        raise ValueError(f"carbon_intensity_g_per_kwh={intensity!r}: give grams of CO2 for each kWh, at least 0.")
    if not options.get("carbon_intensity_source"):
        raise ValueError(
            f"carbon_intensity_g_per_kwh={intensity} without carbon_intensity_source: say who gives this figure, for "
            "which place and time."
        )


def is_hub_id(name: Any) -> bool:
    """Return whether a repository on the Hub could have this name.

    Example:

        >>> is_hub_id("user/name"), is_hub_id("NanoBEIR-{language}"), is_hub_id("a/b/c")
        (True, False, False)
    """
    try:
        validate_repo_id(name)
    except ValueError:
        return False
    return isinstance(name, str)


def card_data(files: CardFiles) -> ModelCardData:
    """The metadata of a card."""
    languages, tags = hub_languages(files.languages)
    more: dict[str, Any] = license_fields(files.options.get("license"))
    more |= {"language_bcp47": tags or None, "co2_eq_emissions": emissions(files)}
    several = ["multilingual"] if len(languages) > 1 else []
    return ModelCardData(
        language=languages or None,
        library_name="sentence-transformers",
        tags=[*TAGS, *several],
        datasets=training_data(files) or None,
        pipeline_tag="sentence-similarity",
        base_model=files.base_model,
        model_name=files.name,
        eval_results=eval_results(files) or None,
        **more,
    )


def hub_languages(codes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Codes as the Hub takes them, and those of which that is only a part.

    Example:

        >>> hub_languages(["de", "pt-BR", "zh-CN", "zh-Hant", "eng", "not a language"])
        (['de', 'pt', 'zh', 'en'], ['pt-BR', 'zh-CN', 'zh-Hant'])
    """
    import langcodes

    languages, finer = dict[str, None](), dict[str, None]()
    for code in codes:
        try:
            tag = langcodes.standardize_tag(code)
        except langcodes.LanguageTagError:
            continue
        primary = tag.split("-")[0].lower()
        if re.fullmatch("[a-z]{2,3}", primary):
            languages[primary] = None
            if tag != primary:
                finer[tag] = None
    return list(languages), list(finer)


def license_fields(license: str | None) -> dict[str, str]:
    """A license as the Hub takes it.

    Example:

        >>> license_fields("Apache-2.0"), license_fields("Unicode-3.0")
        ({'license': 'apache-2.0'}, {'license': 'other', 'license_name': 'unicode-3.0'})
    """
    if not license:
        return {}
    name = re.sub(r"[^a-z0-9.+]+", "-", to_plain_text(license).lower()).strip("-")
    return {"license": name} if name in _LICENSES.split() else {"license": "other", "license_name": name or "unnamed"}


def doubts(license: str | None, base_model: str | None) -> list[str]:
    """Warnings about options that the Hub takes, and that yet may be mistakes.

    Example:

        >>> doubts("apache2", "user/base")
        ['license apache2 is none that the Hub knows: its card says other, named apache2. Did you mean apache-2.0?']
        >>> doubts("mit", "bert")
        ['base_model bert has no namespace: most models on the Hub are called user/bert.']
    """
    told = []
    if name := license_fields(license).get("license_name"):
        near = get_close_matches(name, _LICENSES.split(), n=1)
        asked = f"Did you mean {near[0]}?" if near else f"Those it knows are listed at {_LICENSES_PAGE}."
        told.append(f"license {license} is none that the Hub knows: its card says other, named {name}. {asked}")
    if base_model and "/" not in base_model:
        told.append(f"base_model {base_model} has no namespace: most models on the Hub are called user/{base_model}.")
    return told


def training_data(files: CardFiles) -> list[str]:
    """Hub ids of the data sets that were trained on."""
    chosen = files.options.get("datasets")
    preset = preset_of(files.run["corpus"].get("source") or {})
    return list(chosen) if chosen else [preset.repo] if preset and is_hub_id(preset.repo) else []


def preset_of(source: Mapping[str, Any]) -> Preset | None:
    """The preset that a corpus is, where it was read from the Hub as our table has it."""
    from hf_hybrid.data.sources.presets import PRESETS

    preset = PRESETS.get(str(source.get("preset")))
    same = preset is not None and (source.get("id"), source.get("revision")) == (preset.repo, preset.revision)
    return preset if same else None


def eval_results(files: CardFiles) -> list[EvalResult]:
    """A result for each measure of each setting, and of bias."""
    scores = files.scores
    if scores is None:
        return []
    preset = find_eval_preset(files)
    corpus: dict[str, Any] = {
        "dataset_type": preset.repo if preset and is_hub_id(preset.repo) else "unknown",
        "dataset_revision": preset.revision if preset else None,
        "dataset_split": preset.split if preset else None,
        "dataset_args": {"fingerprint": to_plain_text(str(files.evaluated.get("corpus_fingerprint", "unknown")))},
    }
    groups: dict[str, Mapping[str, float]] = {name: scores[name] for name in SETTINGS}  # type: ignore[literal-required]
    return [
        EvalResult(
            task_type=TASK,
            task_name="Retrieval",
            dataset_name=f"{to_plain_text(name_eval_corpus(files))} ({SETTINGS.get(group, 'language bias')})",
            dataset_config=group,
            metric_type=to_plain_text(re.sub(r"\W+", "_", measure.replace("@", "_at_")).lower()),
            metric_name=to_plain_text(measure),
            metric_value=round(value, _SCORE_DIGITS),
            **corpus,
        )
        for group, values in {**groups, "bias": scores["bias"]}.items()
        for measure, value in values.items()
    ]


def corpus_name(source: Mapping[str, Any]) -> str:
    """Return the name of a corpus: its preset, its Hub id, or its folder."""
    names = (source.get(key) for key in ("preset", "id", "path", "format"))
    return next((str(name) for name in names if name), "a corpus without a name")


def name_eval_corpus(files: CardFiles) -> str:
    """Return the name of the evaluation corpus."""
    name = corpus_name(files.evaluated.get("corpus") or {})
    return f"items held out of {name}" if files.held_out else name


def find_eval_preset(files: CardFiles) -> Preset | None:
    """The preset whose scores these are; None where they are of a part of one, or the run was trained on it too."""
    preset = preset_of(files.evaluated.get("corpus") or {})
    whole = files.run["config"].get("eval_corpus") is not None and not files.evaluated.get("max_queries")
    trained_on = (files.run["corpus"].get("source") or {}).get("id")
    return preset if preset is not None and whole and trained_on != preset.repo else None


def eval_entries(files: CardFiles) -> list[EvalResultEntry]:
    """For `.eval_results/`: nDCG@10 within each language, where that is what a benchmark on the Hub asks for.

    Those benchmarks are the retrieval sets of MTEB, which the presets have by their commit: the task is named like the
    repository, and each subset and split of it has an id. Scores are per cent, as theirs.
    """
    preset, scores = find_eval_preset(files), files.scores
    if preset is None or scores is None or not _COMMIT.fullmatch(preset.revision):
        return []
    task, repo = preset.repo.rsplit("/", 1)[-1], files.options.get("repo_id")
    source = {"source_url": f"https://huggingface.co/{repo}/blob/main/eval.json", "source_name": "eval.json"}
    found = {language: scores["pairs"].get(f"{language}-{language}", {}) for language in preset.languages}
    return [
        EvalResultEntry(
            dataset_id=preset.repo,
            dataset_revision=preset.revision,
            task_id=f"{task}_{_subset(preset, language)}_{preset.split}",
            value=round(100 * values["nDCG@10"], 5),
            notes="nDCG@10 of hf_hybrid: ties count against the model",
            **(source if repo else {}),
        )
        for language, values in found.items()
        if "nDCG@10" in values
    ]


def _subset(preset: Preset, language: str) -> str:
    return preset.config.removesuffix("-{part}").format(language=preset.languages[language])


def hardware(run: Run) -> str:
    """Describe the hardware of a run.

    Example:

        >>> hardware({"config": {}, "world_size": 4, "environment": {"devices": ["A100"] * 4}})
        '4 x A100'
    """
    environment, number = run["environment"], run["world_size"]
    devices = [] if run["config"].get("use_cpu") else environment.get("devices") or []
    if devices:
        return f"{number} x {devices[0]}"
    cores = environment.get("cpu_count")
    processes = "1 process" if number == 1 else f"{number} processes"
    return f"CPU, {processes}" + (f", {cores} cores in the machine" if cores else "")


def emissions(files: CardFiles) -> dict[str, Any] | None:
    """Grams of CO2, where both the energy and the carbon intensity of its electricity are known."""
    resources, intensity = files.resources, files.options.get("carbon_intensity_g_per_kwh")
    if resources is None or resources["energy_wh"] is None or intensity is None:
        return None
    source = resources["energy_source"]
    meter = f"energy estimated by {source}" if source in ESTIMATES else f"energy measured by {source}"
    told = f"{meter}; {intensity:g} g of CO2 for each kWh: {files.options.get('carbon_intensity_source')}"
    return {
        "emissions": round(resources["energy_wh"] / 1000 * intensity, _SCORE_DIGITS),
        "source": to_plain_text(told, most=300),
        "training_type": "fine-tuning" if files.began_from else "pre-training",
        "hardware_used": to_plain_text(hardware(files.run)),
    }
