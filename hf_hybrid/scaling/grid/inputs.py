"""Inputs that all trials of a study share: settings, corpora and base models.

1. Settings are those of a YAML file and of options over it, less what the study itself decides.
2. Without an evaluation corpus, items are held out once, of the largest set of languages, and both parts are written
   to the study: a trial with few languages must not train on what another one is evaluated on.
3. Without a checkpoint, a base model is made for each seed, with a tokenizer of all texts that any trial trains on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import yaml
from transformers import set_seed

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.languages import split_codes
from hf_hybrid.data.sources.load import load_corpus
from hf_hybrid.data.storage import MANIFEST
from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.training.arguments import (
    DataArguments,
    EncoderArguments,
    HybridTrainingArguments,
    MlmTrainingArguments,
    ModelArguments,
)
from hf_hybrid.training.run import encoder_from_scratch
from hf_hybrid.utils.files import UNFINISHED, delete_folder
from hf_hybrid.utils.options import READS, SETS, find_settings, option_metadata, parse_arguments
from hf_hybrid.utils.redaction import redact_json

from .arguments import StudyArguments
from .arms import STUDY, Shared, nest_languages, order_languages

_GROUPS = (ModelArguments, DataArguments, HybridTrainingArguments, MlmTrainingArguments)
_SET_BY_STUDY, _READ_BY_STUDY = (
    {name for group in _GROUPS for name, metadata in option_metadata(group).items() if metadata.get("study") == what}
    for what in (SETS, READS)
)
OWN_OPTIONS = {"config", "like", *_SET_BY_STUDY}
_MOST_COUNTED = 2000  # items whose tokens are counted by language


class Settings(NamedTuple):
    """Settings of all trials.

    Args:
        train, mlm (`dict`): Options of `train.py` and of `mlm.py`, as their configuration files have them.
        model_args (`ModelArguments`): Of `train.py`, with those that make a base model.
        data_args (`DataArguments`): Of the study.
        args (`HybridTrainingArguments`): Of `train.py`.
        mlm_args (`MlmTrainingArguments`): Of `mlm.py`.
    """

    train: dict[str, Any]
    mlm: dict[str, Any]
    model_args: ModelArguments
    data_args: DataArguments
    args: HybridTrainingArguments
    mlm_args: MlmTrainingArguments


class Inputs(NamedTuple):
    """Corpora and sets of languages.

    Args:
        train (`ParallelCorpus`): Without what is held out.
        evaluation (`ParallelCorpus`): In the languages of the evaluation.
        order (`list[str]`): Of the languages.
        sets (`dict[int, list[str]]`): The languages for each L.
        options (`dict[str, str]`): Of `train.py` and `mlm.py` for these corpora.
        held_out (`bool`, *optional*, defaults to `False`): Whether both are parts of one corpus, to be saved.
    """

    train: ParallelCorpus
    evaluation: ParallelCorpus
    order: list[str]
    sets: dict[int, list[str]]
    options: dict[str, str]
    held_out: bool = False


# Step 1


def read_settings(study: StudyArguments) -> Settings:
    """The settings of a study, checked as the commands check them.

    Args:
        study (`StudyArguments`): With its configuration files.

    Raises:
        ValueError: On an option that the study itself decides.
        SystemExit: On an option that the command does not know, as for `parse_arguments`.
    """
    train = _merged(study.train_config, study.read_options("train_options"), "train_options")
    mlm = _merged(study.mlm_config, study.read_options("mlm_options"), "mlm_options")
    for name, value in {"train_corpus": study.train_corpus, "eval_corpus": study.eval_corpus}.items():
        if value is not None:
            train[name] = value
    if study.model_name_or_path is not None:
        train["model_name_or_path"] = study.model_name_or_path
    model_args, data_args, args, _ = parse_arguments(
        [ModelArguments, DataArguments, HybridTrainingArguments], _words({**train, "eval_strategy": "no"})
    )
    mlm_only = {name: value for name, value in mlm.items() if name not in ("max_steps", "max_tokens", "tokens_of")}
    *_, mlm_args, _ = parse_arguments([EncoderArguments, DataArguments, MlmTrainingArguments], _words(mlm_only))
    left_out = OWN_OPTIONS | _READ_BY_STUDY
    kept_train, kept_mlm = (
        {name: value for name, value in found.items() if name not in left_out} for found in (train, mlm)
    )
    return Settings(kept_train, kept_mlm, model_args, data_args, args, mlm_args)


def _merged(config: str, options: Mapping[str, str], place: str) -> dict[str, Any]:
    if refused := [name for name in options if name in OWN_OPTIONS]:
        raise ValueError(f"{place}: the study itself decides on {refused[0]}; omit it.")
    try:
        found = yaml.safe_load(find_settings(config).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{config}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{config}: expected lines of `option: value`.")
    return {**found, **options}


def _words(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as words of a command line."""
    given = {name: value for name, value in settings.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", _text(value))]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def write_configs(outputs: OutputFolder, settings: Settings) -> None:
    """Write what trials begin with, for their `--config`."""
    for name, found in {"train": settings.train, "mlm": settings.mlm}.items():
        with outputs.writing(f"configs/{name}.yaml") as unfinished:
            unfinished.write_text(yaml.safe_dump(found, allow_unicode=True), encoding="utf-8")


# Step 2


def open_inputs(study: StudyArguments, data_args: DataArguments) -> Inputs:
    """Load the corpora, and hold items out where none is there to evaluate on.

    Args:
        study (`StudyArguments`): With order and numbers of languages.
        data_args (`DataArguments`): With the corpora.
    """
    options: dict[str, Any] = {"on_bad_row": data_args.on_bad_row, "cache_dir": data_args.cache_dir}
    whole = load_corpus(data_args.train_corpus, data_args.corpus_format, **options)
    counts = whole.pair_counts()
    order = order_languages(study.order, {code: int(counts[i, i]) for i, code in enumerate(whole.languages)})
    sets = nest_languages(order, study.counts)
    largest, wanted = sets[max(sets)], split_codes(study.eval_languages)
    if data_args.eval_corpus is not None:
        evaluation = load_corpus(data_args.eval_corpus, data_args.eval_corpus_format, **options)
        chosen = wanted or [code for code in largest if code in evaluation.languages]
        if not chosen:
            raise ValueError(f"eval_corpus has none of the languages {', '.join(largest)}; give eval_languages.")
        named = {"train_corpus": data_args.train_corpus, "eval_corpus": data_args.eval_corpus}
        named["eval_languages"] = ",".join(chosen)
        return Inputs(whole, evaluation.select_languages(chosen), order, sets, named)
    chosen = wanted or largest
    needed = list(dict.fromkeys([*largest, *chosen, *({"en"} & set(whole.languages))]))
    share = data_args.held_out
    parts = whole.select_languages(needed).split(int(share) if float(share).is_integer() else share)
    named = {"train_corpus": f"{STUDY}/corpora/train", "eval_corpus": f"{STUDY}/corpora/eval"}
    named |= {"corpus_format": "auto", "eval_corpus_format": "auto"}
    return Inputs(parts[0], parts[1].select_languages(chosen), order, sets, named, held_out=True)


def save_inputs(inputs: Inputs, outputs: OutputFolder, begun: bool) -> Inputs:
    """Write what was held out, and what is left, to the study.

    Args:
        inputs (`Inputs`): Of `open_inputs`.
        outputs (`OutputFolder`): Of the study.
        begun (`bool`): Whether trials have been made from what is there, so that it must not change.

    Returns:
        `Inputs`: With the corpora that trials will read.

    Raises:
        ValueError: When the study has begun with other items or languages.
    """
    if not inputs.held_out:
        return inputs
    train = _saved(inputs.train, outputs, "corpora/train", begun)
    return inputs._replace(train=train, evaluation=_saved(inputs.evaluation, outputs, "corpora/eval", begun))


def _saved(part: ParallelCorpus, outputs: OutputFolder, name: str, begun: bool) -> ParallelCorpus:
    """Write a part of a corpus to its own files, unless they exist and hold the same part."""
    folder = outputs.path / name
    aside = folder.with_name(f"{UNFINISHED}{folder.name}")
    delete_folder(aside)
    fingerprint = part.save(aside).fingerprint
    is_there = (folder / MANIFEST).is_file()
    if not is_there or ParallelCorpus.load(folder).fingerprint != fingerprint:
        if begun and is_there:
            delete_folder(aside)
            raise ValueError(
                f"{folder} holds other items or languages than this study would: choose another study_dir, or "
                "--overwrite to start over."
            )
        outputs.put_folder(aside, name)
    delete_folder(aside)
    return ParallelCorpus.load(folder)


def describe_corpus(corpus: ParallelCorpus) -> dict[str, Any]:
    """Return the record of a corpus for `study.json`."""
    counts = corpus.pair_counts()
    return {
        "fingerprint": corpus.fingerprint,
        "items_per_language": {code: int(counts[i, i]) for i, code in enumerate(corpus.languages)},
        "license": corpus.source.get("license"),
        "source": redact_json(corpus.source),
    }


# Step 3


def make_base(outputs: OutputFolder, name: str, corpus: ParallelCorpus, model_args: ModelArguments, seed: int) -> None:
    """Make the model that the trials of a seed begin with, unless it is there.

    Args:
        outputs (`OutputFolder`): Of the study.
        name (`str`): Of its folder there.
        corpus (`ParallelCorpus`): In the languages of the largest set.
        model_args (`ModelArguments`): Its size, prompts and lengths.
        seed (`int`): Of the weights.
    """
    path = outputs.path / name
    if (path / "config.json").is_file():
        return
    set_seed(seed)
    encoder = encoder_from_scratch(HybridEncoder, model_args, corpus)
    aside = path.with_name(f"{UNFINISHED}{path.name}")
    delete_folder(aside)
    encoder.save_pretrained(aside)
    outputs.put_folder(aside, name)


def evaluation_options(settings: Settings, inputs: Inputs) -> dict[str, str]:
    """Options of `eval.py` for what the trained trials are evaluated on."""
    model, data, args = settings.model_args, settings.data_args, settings.args
    found = {
        "corpus": inputs.options["eval_corpus"],
        "corpus_format": inputs.options.get("eval_corpus_format", data.eval_corpus_format),
        "languages": ",".join(inputs.evaluation.languages),
        "on_bad_row": data.on_bad_row,
        "revision": model.model_revision,
        "query_prompt": model.query_prompt,
        "passage_prompt": model.passage_prompt,
        "pooling": model.pooling,
        "max_length": model.max_passage_length,
        "max_queries": args.max_eval_queries,
        "batch_tokens": args.eval_batch_tokens,
        "use_cpu": args.use_cpu,
    }
    return {name: _text(value) for name, value in found.items() if value is not None}


def build_shared_options(study: StudyArguments, settings: Settings, inputs: Inputs) -> Shared:
    """Return the options of all trials."""
    base = settings.model_args.model_name_or_path
    return Shared(inputs.options, evaluation_options(settings, inputs), base, study.eval_every, study.own_cache)


def token_premiums(corpus: ParallelCorpus, tokenizer: Any) -> dict[str, dict[str, float]]:
    """Return the tokenizer premium of each language, on items that also exist in English (Petrov et al. 2023).

    Args:
        corpus (`ParallelCorpus`): Parallel texts, of which the first 2,000 items are counted.
        tokenizer (`PreTrainedTokenizerBase`): The base model's.

    Returns:
        `dict`: By language `texts`, `tokens_per_text` and `tokens_per_character`, of all its texts; `premium`: tokens
        over those of English, on the items of both, where there are any.
    """
    rows_ILS = corpus.rows[:_MOST_COUNTED]
    counted = {code: _token_counts(corpus, tokenizer, code, rows_ILS[:, i]) for i, code in enumerate(corpus.languages)}
    found: dict[str, dict[str, float]] = {}
    for code, (tokens_I, characters) in counted.items():
        texts = int((rows_ILS[:, corpus.languages.index(code)] >= 0).sum())
        if not texts or not characters:
            continue
        found[code] = {
            "texts": texts,
            "tokens_per_text": float(tokens_I.sum() / texts),
            "tokens_per_character": float(tokens_I.sum() / characters),
        }
        if "en" in counted:
            both = (tokens_I > 0) & (counted["en"][0] > 0)
            if both.any():
                found[code]["premium"] = float(tokens_I[both].sum() / counted["en"][0][both].sum())
    return found


def _token_counts(
    corpus: ParallelCorpus, tokenizer: Any, language: str, rows_IS: np.ndarray
) -> tuple[np.ndarray, int]:
    """Tokens of each item's query and passage, 0 where it lacks one, and the characters of all."""
    tokens_I, characters = np.zeros(len(rows_IS), dtype=np.int64), 0
    items = np.flatnonzero((rows_IS >= 0).all(axis=1))
    for side in (corpus.QUERY, corpus.PASSAGE) if len(items) else ():
        found, places_I = np.unique(rows_IS[items, side], return_inverse=True)
        texts = corpus.texts(side, language, found)
        ids: Sequence[Sequence[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
        tokens_I[items] += np.array([len(sequence) for sequence in ids], dtype=np.int64)[places_I]
        characters += int(np.array([len(text) for text in texts], dtype=np.int64)[places_I].sum())
    return tokens_I, characters
