"""Metadata of a model card for the Hub: its YAML header, and `.eval_results/`.

The Hub accepts ISO 639 codes of two or three letters as `language`, finer codes as `language_bcp47`, licenses that are
on its list, and ids of models and datasets on the Hub. Unknown facts are omitted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData
from huggingface_hub.utils import validate_repo_id

from hf_hybrid.records.schema import SCORE_GROUPS, SETTINGS, CardOptions, Evaluation, Resources, Run, Scores
from hf_hybrid.utils.text import to_plain_text

if TYPE_CHECKING:
    from hf_hybrid.data.sources.presets import Preset

TAGS = ("sentence-transformers", "sentence-similarity", "feature-extraction", "dense-retrieval", "hf_hybrid")
TASK = "text-retrieval"  # as the Hub calls it
ESTIMATES = ("codecarbon",)  # energy sources without a meter
# The Hub's list of licenses. Any other license is `other`, with its name.
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
    """The records of a run that its card is built from.

    Args:
        run (`Run`): `run.json`.
        evaluation (`Evaluation`): `eval.json`; without scores if the file is missing.
        resources (`Resources`, *optional*): `resources.json`.
        options (`CardOptions`): `card.json`.
    """

    run: Run
    evaluation: Evaluation
    resources: Resources | None
    options: CardOptions

    @property
    def name(self) -> str:
        """Name of the model: the name of its repository or run folder."""
        return to_plain_text((self.options.get("repo_id") or self.folder).rsplit("/", 1)[-1])

    @property
    def folder(self) -> str:
        """Name of the run folder."""
        return str(self.arguments.get("output_dir") or "run").rstrip("/").rsplit("/", 1)[-1]

    @property
    def languages(self) -> list[str]:
        """Training languages."""
        return list(self.run["corpus"]["items_per_language"])

    @property
    def model(self) -> Mapping[str, Any]:
        """The model in `run.json`."""
        return self.run["model"]

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Arguments of the run; if no recipe started it, those in the identity of the trainer."""
        return {**self.run["identity"], **self.run["config"]}

    @property
    def base_model(self) -> str | None:
        """Hub id of the checkpoint that training began from; `None` for a local checkpoint or random weights."""
        from_hub = self.model.get("commit") is not None
        found = self.options.get("base_model") or (self.arguments.get("model_name_or_path") if from_hub else None)
        return found if is_hub_id(found) else None

    @property
    def is_by_recipe(self) -> bool:
        """Whether a recipe started the run, so that its arguments name the corpora."""
        return "train_corpus" in self.run["config"]

    @property
    def start(self) -> str | None:
        """Name of the checkpoint that training began from; `None` for random weights."""
        own: str | None = self.run["config"].get("model_name_or_path")
        if own is not None or self.is_by_recipe:
            return own
        name = str(self.run["identity"].get("model", "")).rpartition(", ")[0]  # a hash follows
        return name if name not in ("", "from scratch") else None

    @property
    def precision(self) -> str:
        """Precision of training and evaluation."""
        return next((name for name in ("bf16", "fp16") if self.run["config"].get(name)), "float32")

    @property
    def is_held_out(self) -> bool:
        """Whether the evaluation items were held out of the training corpus."""
        no_other = self.run["config"].get("eval_corpus") is None
        return no_other and bool(self.evaluated) and self.evaluated.get("corpus") == self.run["corpus"].get("source")

    @property
    def scores(self) -> Scores | None:
        """Scores after training."""
        return self.evaluation["after"]

    @property
    def evaluated(self) -> Mapping[str, Any]:
        """What was evaluated; empty if nothing was."""
        return self.evaluation["evaluated"]


def check_options(options: CardOptions) -> None:
    """Check the options of a card.

    Raises:
        ValueError: When an id is not possible on the Hub, or a carbon intensity is not a number or has no source.
    """
    for name in (options.get("repo_id"), options.get("base_model"), *(options.get("datasets") or [])):
        if name is not None and not is_hub_id(name):
            raise ValueError(f"{name!r} is not an id on the Hub. An id looks like user/name.")
    intensity = options.get("carbon_intensity_g_per_kwh")
    if intensity is None:
        return
    if isinstance(intensity, bool) or not isinstance(intensity, int | float) or not 0 <= intensity < math.inf:
        raise ValueError(f"carbon_intensity_g_per_kwh must be grams of CO2 per kWh, at least 0, got {intensity!r}.")
    if not options.get("carbon_intensity_source"):
        raise ValueError(
            f"carbon_intensity_g_per_kwh={intensity} needs carbon_intensity_source: who published this figure, for "
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


def build_metadata(files: CardFiles) -> ModelCardData:
    """Build the YAML header of a card."""
    languages, finer = convert_languages(files.languages)
    more: dict[str, Any] = convert_license(files.options.get("license"))
    more |= {"language_bcp47": finer or None, "co2_eq_emissions": estimate_emissions(files)}
    return ModelCardData(
        language=languages or None,
        library_name="sentence-transformers",
        tags=[*TAGS, *(["multilingual"] if len(languages) > 1 else [])],
        datasets=list_training_data(files) or None,
        pipeline_tag="sentence-similarity",
        base_model=files.base_model,
        model_name=files.name,
        eval_results=list_eval_results(files) or None,
        **more,
    )


def convert_languages(codes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return language codes that the Hub accepts, and the codes that say more than those.

    Example:

        >>> convert_languages(["de", "pt-BR", "zh-CN", "zh-Hant", "eng", "not a language"])
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


def convert_license(license: str | None) -> dict[str, str]:
    """Return the metadata fields of a license.

    Example:

        >>> convert_license("Apache-2.0"), convert_license("Unicode-3.0")
        ({'license': 'apache-2.0'}, {'license': 'other', 'license_name': 'unicode-3.0'})
    """
    if not license:
        return {}
    name = re.sub(r"[^a-z0-9.+]+", "-", to_plain_text(license).lower()).strip("-")
    return {"license": name} if name in _LICENSES.split() else {"license": "other", "license_name": name or "unnamed"}


def find_doubts(license: str | None, base_model: str | None) -> list[str]:
    """Return warnings about options that the Hub accepts, but that may be mistakes.

    Example:

        >>> find_doubts("apache2", "user/base")
        ["license apache2 is not on the Hub's list: the card says other, named apache2. Did you mean apache-2.0?"]
        >>> find_doubts("mit", "bert")
        ['base_model bert has no namespace: most models on the Hub have names like user/bert.']
    """
    found = []
    if name := convert_license(license).get("license_name"):
        near = get_close_matches(name, _LICENSES.split(), n=1)
        hint = f"Did you mean {near[0]}?" if near else f"{_LICENSES_PAGE} has the list."
        found.append(f"license {license} is not on the Hub's list: the card says other, named {name}. {hint}")
    if base_model and "/" not in base_model:
        found.append(
            f"base_model {base_model} has no namespace: most models on the Hub have names like user/{base_model}."
        )
    return found


def list_training_data(files: CardFiles) -> list[str]:
    """Return the Hub ids of the training datasets."""
    chosen = files.options.get("datasets")
    preset = find_preset(files.run["corpus"].get("source") or {})
    return list(chosen) if chosen else [preset.repo] if preset and is_hub_id(preset.repo) else []


def find_preset(source: Mapping[str, Any]) -> Preset | None:
    """Return the preset of a corpus that was loaded from the repository and revision in our table."""
    from hf_hybrid.data.sources.presets import PRESETS

    preset = PRESETS.get(str(source.get("preset")))
    is_same = preset is not None and (source.get("id"), source.get("revision")) == (preset.repo, preset.revision)
    return preset if is_same else None


def find_eval_preset(files: CardFiles) -> Preset | None:
    """Return the preset whose benchmark the scores are: the whole of it, and not in the training data."""
    preset = find_preset(files.evaluated.get("corpus") or {})
    is_whole = files.run["config"].get("eval_corpus") is not None and not files.evaluated.get("max_queries")
    trained_on = (files.run["corpus"].get("source") or {}).get("id")
    return preset if preset is not None and is_whole and trained_on != preset.repo else None


def list_eval_results(files: CardFiles) -> list[EvalResult]:
    """Return a result for each measure of each setting and of bias."""
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
        for group in SCORE_GROUPS
        for measure, value in scores[group].items()  # type: ignore[literal-required]
    ]


def corpus_name(source: Mapping[str, Any]) -> str:
    """Return the name of a corpus: its preset, its Hub id, or its folder."""
    names = (source.get(key) for key in ("preset", "id", "path", "format"))
    return next((str(name) for name in names if name), "a corpus without a name")


def name_eval_corpus(files: CardFiles) -> str:
    """Return the name of the evaluation corpus."""
    name = corpus_name(files.evaluated.get("corpus") or {})
    return f"items held out of {name}" if files.is_held_out else name


def list_eval_entries(files: CardFiles) -> list[EvalResultEntry]:
    """Return results for the leaderboards of the Hub, which read `.eval_results/`: nDCG@10 within each language.

    Their benchmarks are the retrieval sets of MTEB. The presets name these by their commit. A task has the name of the
    repository, and each of its subsets and splits has an id. Scores are per cent.
    """
    preset, scores = find_eval_preset(files), files.scores
    if preset is None or scores is None or not _COMMIT.fullmatch(preset.revision):
        return []
    task, repo = preset.repo.rsplit("/", 1)[-1], files.options.get("repo_id")
    source = {"source_url": f"https://huggingface.co/{repo}/blob/main/eval.json", "source_name": "eval.json"}
    subset = preset.config.removesuffix("-{part}")
    return [
        EvalResultEntry(
            dataset_id=preset.repo,
            dataset_revision=preset.revision,
            task_id=f"{task}_{subset.format(language=name)}_{preset.split}",
            value=round(100 * scores["pairs"][f"{language}-{language}"]["nDCG@10"], 5),
            notes="nDCG@10 of hf_hybrid: ties count against the model",
            **(source if repo else {}),
        )
        for language, name in preset.languages.items()
        if "nDCG@10" in scores["pairs"].get(f"{language}-{language}", {})
    ]


def describe_hardware(run: Run) -> str:
    """Describe the hardware of a run.

    Example:

        >>> describe_hardware({"config": {}, "world_size": 4, "environment": {"devices": ["A100"] * 4}})
        '4 x A100'
    """
    environment, number = run["environment"], run["world_size"]
    devices = [] if run["config"].get("use_cpu") else environment.get("devices") or []
    if devices:
        return f"{number} x {devices[0]}"
    cores = environment.get("cpu_count")
    processes = "1 process" if number == 1 else f"{number} processes"
    return f"CPU, {processes}" + (f", {cores} cores in the machine" if cores else "")


def estimate_emissions(files: CardFiles) -> dict[str, Any] | None:
    """Return grams of CO2 if both the energy and the carbon intensity of its electricity are known."""
    resources, intensity = files.resources, files.options.get("carbon_intensity_g_per_kwh")
    if resources is None or resources["energy_wh"] is None or intensity is None:
        return None
    source = resources["energy_source"]
    meter = f"energy {'estimated' if source in ESTIMATES else 'measured'} by {source}"
    words = f"{meter}; {intensity:g} g of CO2 per kWh: {files.options.get('carbon_intensity_source')}"
    return {
        "emissions": round(resources["energy_wh"] / 1000 * intensity, _SCORE_DIGITS),
        "source": to_plain_text(words, most=300),
        "training_type": "fine-tuning" if files.start else "pre-training",
        "hardware_used": to_plain_text(describe_hardware(files.run)),
    }
