"""The identity of a run, and the settings of an earlier run for `--like`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub import hf_hub_download

from hf_hybrid.data.sides import SIDE_PLURALS
from hf_hybrid.records.output_folder import differences
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import Run
from hf_hybrid.utils.options import MODEL, options_that_decide

if TYPE_CHECKING:
    from hf_hybrid.data.batches.schedule import HybridSchedule

    from .arguments import RunArguments

RUN_NAME = "run.json"


def run_identity(args: RunArguments, schedule: Any, model: str, **lengths: int) -> dict[str, Any]:
    """Return the names and values that must be equal for a run to resume.

    Args:
        args (`RunArguments`): The arguments of the run.
        schedule (`HybridSchedule` or `MlmSchedule`): Its plan.
        model (`str`): The fingerprint of the model before training, from `model_name`.
        **lengths: `max_query_length` and `max_passage_length` in tokens, if texts are cut.
    """
    return {
        "corpus": schedule.corpus.fingerprint,
        "model": model,
        **lengths,
        **{name: getattr(args, name) for name in options_that_decide(args, MODEL)},
        "mix": str(schedule.mix),
        "seed": args.seed,
        "data_seed": schedule.seed,
        "plan": schedule.fingerprint,
    }


def describe_batch(schedule: HybridSchedule, number: int) -> dict[str, Any]:
    """Return batch type, language pair, item ids, and texts of a batch by language, side and row of the corpus."""
    batch, corpus = schedule.batch(number), schedule.corpus
    sides = (
        (corpus.QUERY, batch.items, batch.query_languages),
        (corpus.PASSAGE, batch.items[batch.positive_items], batch.positive_languages),
    )
    texts = [
        {
            "side": SIDE_PLURALS[side],
            "language": corpus.languages[language],
            "rows": corpus.rows[items[languages == language], language, side].tolist(),
        }
        for side, items, languages in sides
        for language in np.unique(languages)
    ]
    return {
        "batch_type": batch.batch_type,
        "language_pair": batch.language_pair.name,
        "item_ids": list(batch.item_ids),
        "texts": texts,
    }


def read_run_like(name: str, revision: str | None = None) -> Run:
    """Read `run.json` of a run folder, a bundle, or a model on the Hub that was trained with hf_hybrid.

    Args:
        name (`str`): Folder, `run.json` in it, or Hub id.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Raises:
        ValueError: When the file is not what `RunFolder.write_run` writes.
        OSError: When there is none.
    """
    if os.path.isfile(name) and os.path.basename(name) == RUN_NAME:
        return RunFolder(Path(name).parent).read_run()
    if os.path.isdir(name):
        folder = Path(name)
        if not (folder / RUN_NAME).exists():
            raise FileNotFoundError(f"--like {name}: the folder has no {RUN_NAME}; give a run folder or a Hub id.")
        return RunFolder(folder).read_run()
    try:
        found = hf_hub_download(name, RUN_NAME, revision=revision)
    except (OSError, ValueError) as error:
        raise OSError(f"--like {name}: no folder here, and no {RUN_NAME} that the Hub gave: {error}") from error
    return RunFolder(Path(found).parent).read_run()


def settings_like(run: Run) -> dict[str, Any]:
    """Return the options that a run like an earlier one must set: those that it changed from the defaults.

    Args:
        run (`Run`): From `run.json`.

    Returns:
        `dict[str, Any]`: Values by name, as in a YAML file of `recipes/`.

    Example:

        >>> config = {"max_steps": 60, "seed": 42, "cache_dir": "elsewhere", "mix": "pool=1.0"}
        >>> settings_like({"config": config, "changed": ["max_steps", "mix"]})
        {'max_steps': 60, 'mix': 'pool=1.0'}
    """
    settings = {name: run["config"][name] for name in run["changed"]}
    if commit := run.get("model", {}).get("commit"):
        settings["model_revision"] = commit  # the branch may have moved
    return {name: json.dumps(value) if isinstance(value, dict) else value for name, value in settings.items()}


def differences_from_run(run: Run, identity: Mapping[str, Any]) -> list[str]:
    """Return the differences between an earlier run and a new one.

    Args:
        run (`Run`): The earlier one.
        identity (`Mapping[str, Any]`): Of the new one, as for `HybridTrainer.identity`.

    Returns:
        `list[str]`: A text for each difference, such as `"seed was 42 and is 43"`; empty for the same run.
    """
    then, now = run.get("identity", {}), json.loads(json.dumps(dict(identity)))
    return differences({name: then.get(name) for name in now}, now)
