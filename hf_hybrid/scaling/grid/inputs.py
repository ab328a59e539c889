"""Inputs that all trials of a study share: settings, corpora and base models.

1. Settings come from a YAML file and from options over it, without those that the study itself sets.
2. Without an evaluation corpus, the study holds out items of the largest set of languages and stores both parts. Every
   trial uses them, so that no trial trains on the items that another one is evaluated on.
3. Without a checkpoint, the study makes a base model for each seed, with a tokenizer of all texts that any trial
   trains on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

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
from hf_hybrid.utils.options import READS, SETS, make_parser, option_metadata, parse_arguments, read_settings
from hf_hybrid.utils.redaction import redact_json

from .arguments import StudyArguments
from .arms import FIXED_LANGUAGES, STUDY, Shared, nest_languages, order_languages

_TRAIN_GROUPS = (ModelArguments, DataArguments, HybridTrainingArguments)
_MLM_GROUPS = (EncoderArguments, DataArguments, MlmTrainingArguments)
_SET_BY_STUDY, _READ_BY_STUDY = (
    {
        name
        for group in (*_TRAIN_GROUPS, *_MLM_GROUPS)
        for name, metadata in option_metadata(group).items()
        if metadata.get("study") == role
    }
    for role in (SETS, READS)
)
_REFUSED = {"config", "like", *_SET_BY_STUDY}
_MOST_COUNTED = 2000  # items whose tokens are counted by language
OTHER_FOLDER = "Choose another study_dir, or --overwrite to start over."


class Settings(NamedTuple):
    """Settings of all trials."""

    train: dict[str, Any]  # the configuration file of `train`
    mlm: dict[str, Any]  # the configuration file of `mlm`
    model_args: ModelArguments  # of `train`, with those that make a base model
    data_args: DataArguments  # of `train`, with the corpora
    args: HybridTrainingArguments
    mlm_args: MlmTrainingArguments


class Inputs(NamedTuple):
    """Corpora and sets of languages."""

    train: ParallelCorpus  # without held-out items
    evaluation: ParallelCorpus  # in the evaluation languages
    order: list[str]  # of the languages
    sets: dict[int, list[str]]  # the languages for each L
    options: dict[str, str]  # of `train` and `mlm`, for these corpora
    held_out: bool = False  # whether both are parts of one corpus, to be saved

    @property
    def largest_set(self) -> list[str]:
        """The languages of the trials with the most languages."""
        return self.sets[max(self.sets)]


# Step 1


def read_study_settings(study: StudyArguments) -> Settings:
    """Read the settings of a study and check them as the commands do.

    Args:
        study (`StudyArguments`): With the configuration files.

    Raises:
        ValueError: When a configuration file is wrong, or an option is given that the study itself sets.
        SystemExit: When a command does not know an option, as for `parse_arguments`.
    """
    train = _read_config(_TRAIN_GROUPS, study.train_config, study.read_options("train_options"), "train_options")
    mlm = _read_config(_MLM_GROUPS, study.mlm_config, study.read_options("mlm_options"), "mlm_options")
    for name in ("train_corpus", "eval_corpus", "model_name_or_path"):
        if (value := getattr(study, name)) is not None:
            train[name] = value
    model_args, data_args, args, _ = parse_arguments(_TRAIN_GROUPS, _to_words({**train, "eval_strategy": "no"}))
    mlm_words = _to_words({name: mlm[name] for name in mlm if name not in ("max_steps", "max_tokens", "tokens_of")})
    *_, mlm_args, _ = parse_arguments(_MLM_GROUPS, mlm_words)
    train, mlm = (
        {name: value for name, value in found.items() if name not in _REFUSED | _READ_BY_STUDY}
        for found in (train, mlm)
    )
    return Settings(train, mlm, model_args, data_args, args, mlm_args)


def _read_config(groups: Sequence[Any], config: str, options: Mapping[str, str], place: str) -> dict[str, Any]:
    """Return the settings of a configuration file with options over them."""

    def stop(message: str) -> NoReturn:
        raise ValueError(message)

    if refused := [name for name in options if name in _REFUSED]:
        stop(f"{place}: the study itself sets {refused[0]}. Omit it.")
    return {**read_settings(config, make_parser(groups).names(on_command_line=False), stop), **options}


def _to_words(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as words of a command line."""
    return [word for name, value in settings.items() if value is not None for word in (f"--{name}", _to_word(value))]


def _to_word(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def write_configs(outputs: OutputFolder, settings: Settings) -> None:
    """Write the files that the `--config` of all trials names."""
    for name, found in {"train": settings.train, "mlm": settings.mlm}.items():
        with outputs.writing(f"configs/{name}.yaml") as unfinished:
            unfinished.write_text(yaml.safe_dump(found, allow_unicode=True), encoding="utf-8")


def build_shared_options(study: StudyArguments, settings: Settings, inputs: Inputs) -> Shared:
    """Return the options of all trials."""
    model, data, args = settings.model_args, settings.data_args, settings.args
    evaluation = {
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
    given = {name: _to_word(value) for name, value in evaluation.items() if value is not None}
    return Shared(inputs.options, given, model.model_name_or_path, study.eval_every, study.own_cache)


# Step 2


def open_inputs(study: StudyArguments, data_args: DataArguments) -> Inputs:
    """Load the corpora, and hold out items if there is no evaluation corpus.

    Args:
        study (`StudyArguments`): With the order and the numbers of languages.
        data_args (`DataArguments`): With the corpora.
    """
    options: dict[str, Any] = {"on_bad_row": data_args.on_bad_row, "cache_dir": data_args.cache_dir}
    whole = load_corpus(data_args.train_corpus, data_args.corpus_format, **options)
    order = order_languages(study.order, _count_items(whole))
    sets = nest_languages(order, study.counts)
    largest, wanted = sets[max(sets)], split_codes(study.eval_languages)
    if data_args.eval_corpus is not None:
        evaluation = load_corpus(data_args.eval_corpus, data_args.eval_corpus_format, **options)
        chosen = wanted or [code for code in largest if code in evaluation.languages]
        if not chosen:
            raise ValueError(f"eval_corpus has none of the languages {', '.join(largest)}. Give eval_languages.")
        named = {"train_corpus": data_args.train_corpus, "eval_corpus": data_args.eval_corpus}
        named["eval_languages"] = ",".join(chosen)
        return Inputs(whole, evaluation.select_languages(chosen), order, sets, named)
    chosen = wanted or largest
    needed = list(dict.fromkeys([*largest, *chosen, *(code for code in FIXED_LANGUAGES if code in whole.languages)]))
    share = data_args.held_out
    train, held_out = whole.select_languages(needed).split(int(share) if float(share).is_integer() else share)
    named = {"train_corpus": f"{STUDY}/corpora/train", "eval_corpus": f"{STUDY}/corpora/eval"}
    named |= {"corpus_format": "auto", "eval_corpus_format": "auto"}
    return Inputs(train, held_out.select_languages(chosen), order, sets, named, held_out=True)


def save_inputs(inputs: Inputs, outputs: OutputFolder, has_begun: bool) -> Inputs:
    """Write both parts of a divided corpus to the study.

    Args:
        inputs (`Inputs`): Of `open_inputs`.
        outputs (`OutputFolder`): The folder of the study.
        has_begun (`bool`): Whether trials have used the corpora, so that these must not change.

    Returns:
        `Inputs`: With the corpora that trials will read.

    Raises:
        ValueError: When the study has begun with other items or languages.
    """
    if not inputs.held_out:
        return inputs
    train = _save_part(inputs.train, outputs, "corpora/train", has_begun)
    return inputs._replace(train=train, evaluation=_save_part(inputs.evaluation, outputs, "corpora/eval", has_begun))


def _save_part(part: ParallelCorpus, outputs: OutputFolder, name: str, has_begun: bool) -> ParallelCorpus:
    """Write a part of a corpus, unless the study holds the same part."""
    folder = outputs.path / name
    with _open_folder_aside(folder) as aside:
        fingerprint = part.save(aside).fingerprint  # a saved part has a fingerprint of its own
        is_there = (folder / MANIFEST).is_file()
        if not is_there or ParallelCorpus.load(folder).fingerprint != fingerprint:
            if has_begun and is_there:
                raise ValueError(f"{folder} holds other items or languages than this study would. {OTHER_FOLDER}")
            outputs.put_folder(aside, name)
    return ParallelCorpus.load(folder)


@contextmanager
def _open_folder_aside(path: Path) -> Iterator[Path]:
    """Provide the path of a temporary folder beside `path`, and delete the folder at the end."""
    aside = path.with_name(f"{UNFINISHED}{path.name}")
    delete_folder(aside)  # left by a kill
    try:
        yield aside
    finally:
        delete_folder(aside)


def describe_corpus(corpus: ParallelCorpus) -> dict[str, Any]:
    """Return the record of a corpus for `study.json`."""
    return {
        "fingerprint": corpus.fingerprint,
        "items_per_language": _count_items(corpus),
        "license": corpus.source.get("license"),
        "source": redact_json(corpus.source),
    }


def _count_items(corpus: ParallelCorpus) -> dict[str, int]:
    counts = corpus.pair_counts()
    return {code: int(counts[i, i]) for i, code in enumerate(corpus.languages)}


# Step 3


def make_bases(
    outputs: OutputFolder, inputs: Inputs, model_args: ModelArguments, seeds: Iterable[int], has_begun: bool
) -> None:
    """Make the model from scratch that the trials of each seed begin with, unless the study holds it.

    Args:
        outputs (`OutputFolder`): The folder of the study.
        inputs (`Inputs`): With the training corpus: the tokenizer is trained on the largest set of languages.
        model_args (`ModelArguments`): Size, prompts and lengths of the model.
        seeds (`Iterable[int]`): Seeds of the weights.
        has_begun (`bool`): Whether trials have used the models, so that these must not change.

    Raises:
        ValueError: When the study has begun with other models.
    """
    corpus = inputs.train.select_languages(inputs.largest_set)
    made_of = json.dumps({**describe_base(model_args), "corpus": corpus.fingerprint})
    note = outputs.path / "base" / "made_of.json"
    if not note.exists() or note.read_text(encoding="utf-8") != made_of:
        if note.exists() and has_begun:
            raise ValueError(f"{note.parent} was made of other texts or sizes than this study's. {OTHER_FOLDER}")
        outputs.delete("base")
        with outputs.writing("base/made_of.json") as unfinished:
            unfinished.write_text(made_of, encoding="utf-8")
    for seed in seeds:
        path = outputs.path / "base" / f"seed-{seed}"
        if not (path / "config.json").is_file():
            set_seed(seed)
            encoder = encoder_from_scratch(HybridEncoder, model_args, corpus)
            with _open_folder_aside(path) as aside:
                encoder.save_pretrained(aside)
                outputs.put_folder(aside, f"base/seed-{seed}")


def describe_base(model_args: ModelArguments) -> dict[str, Any]:
    """Return the record of the base model for `study.json`."""
    if model_args.model_name_or_path is not None:
        return {"model_name_or_path": model_args.model_name_or_path, "revision": model_args.model_revision}
    sizes = ("scratch_hidden_size", "scratch_num_layers", "scratch_vocab_size", "max_passage_length")
    return {"model_name_or_path": None, **{name: getattr(model_args, name) for name in sizes}}


def measure_token_premiums(corpus: ParallelCorpus, tokenizer: Any) -> dict[str, dict[str, float]]:
    """Return the tokenizer premium of each language: its tokens over those of English (Petrov et al. 2023).

    Args:
        corpus (`ParallelCorpus`): Parallel texts, of which the first 2,000 items are counted.
        tokenizer (`PreTrainedTokenizerBase`): The base model's tokenizer.

    Returns:
        `dict`: By language, `texts`, `tokens_per_text` and `tokens_per_character` of all its texts, and `premium` on
        the items that also exist in English, if any do.
    """
    rows_ILS = corpus.rows[:_MOST_COUNTED]
    counted = {code: _count_tokens(corpus, tokenizer, code, rows_ILS[:, i]) for i, code in enumerate(corpus.languages)}
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
            in_both_I = (tokens_I > 0) & (counted["en"][0] > 0)
            if in_both_I.any():
                found[code]["premium"] = float(tokens_I[in_both_I].sum() / counted["en"][0][in_both_I].sum())
    return found


def _count_tokens(
    corpus: ParallelCorpus, tokenizer: Any, language: str, rows_IS: np.ndarray
) -> tuple[np.ndarray, int]:
    """Return the tokens of each item's query and passage, 0 if it lacks one, and the characters of all."""
    tokens_I, characters = np.zeros(len(rows_IS), dtype=np.int64), 0
    items = np.flatnonzero((rows_IS >= 0).all(axis=1))
    for side in (corpus.QUERY, corpus.PASSAGE) if len(items) else ():
        rows, places_I = np.unique(rows_IS[items, side], return_inverse=True)  # `texts` needs increasing rows
        texts = corpus.texts(side, language, rows)
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        tokens_I[items] += np.array([len(sequence) for sequence in ids])[places_I]
        characters += int(np.array([len(text) for text in texts])[places_I].sum())
    return tokens_I, characters
