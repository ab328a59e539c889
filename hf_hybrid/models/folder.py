"""The files of a model folder: weights, tokenizer, and the sentence-transformers layout beside them.

In that layout `modules.json` names the modules that a text passes through, each with a folder and a configuration.
Read are the layouts of sentence-transformers 2 to 6 that consist of Transformer, Pooling, at most one Dense and at
most one Normalize; written are the names that all these releases read. Only safetensors are read, and no code.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import hf_hub_download, is_offline_mode
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_hybrid.utils.strict_json import read_json

ATTENTION_DROPOUT_NAMES = ("attention_probs_dropout_prob", "attention_dropout")  # in the models' configurations
_POOLING_KEYS = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
_ACTIVATIONS = {"torch.nn.modules.activation.Tanh": nn.Tanh, "torch.nn.modules.linear.Identity": nn.Identity}
_PASSAGE_PROMPTS = ("document", "passage", "corpus")  # in the order of `SentenceTransformer.encode_document`
_WEIGHTS = "model.safetensors"


class LoadedModel(NamedTuple):
    """The content of a folder or Hub repository.

    Args:
        backbone (`PreTrainedModel`): Without a task head.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        projection (`nn.Sequential`, *optional*): A linear layer and activation, as in `Layout`.
        settings (`dict[str, Any]`): As in `Layout`; `pooling` may also be "pooler". Empty where there is no layout.
    """

    backbone: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    projection: nn.Sequential | None
    settings: dict[str, Any]


class Layout(NamedTuple):
    """Settings of a model in a sentence-transformers layout.

    Args:
        settings (`dict[str, Any]`): `pooling` ("mean" or "cls"), `normalize`, `query_prompt`, `passage_prompt`, and
            `max_length` where it is given beside the tokenizer's.
        projection (`nn.Sequential`, *optional*): The linear layer and activation put on the pooled state.
    """

    settings: dict[str, Any]
    projection: nn.Sequential | None


def load_model(
    name: str,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    attention_dropout: float | None = None,
    pooling: str | None = None,
) -> LoadedModel:
    """Load an encoder with its tokenizer and, where there is a sentence-transformers layout, what that says.

    Args:
        name (`str`): Folder or Hub id.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Of the backbone's weights.
        attention_dropout (`float`, *optional*): Dropout of attention probabilities; by default the checkpoint's.
        pooling (`str`, *optional*): Instead of the layout's, whose projection is then dropped.

    Raises:
        ValueError: When it is no encoder, a file is damaged, or its layout is not a known one.
        OSError: When there is no such model, or it has no safetensors.
    """
    with _explained(name, "configuration"):
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    check_encoder(config)
    for key in ATTENTION_DROPOUT_NAMES:  # before the modules are made, which copy it
        if attention_dropout is not None and hasattr(config, key):
            setattr(config, key, attention_dropout)
    with _explained(name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise ValueError("there is no tokenizer.json, and no other vocabulary")
    layout = read_layout(name, revision)
    settings, projection = layout or ({}, None)
    if layout is not None:
        settings = {"max_length": tokenizer.model_max_length} | settings
        if _is_pooler(projection, settings["pooling"], config):
            settings["pooling"] = "pooler"
    if pooling not in (None, settings.get("pooling")):
        settings, projection = settings | {"pooling": pooling}, None  # it was trained on another pooled state
    options: dict[str, Any] = {"config": config, "dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # the latter is refused below, by name
    if _has_pooler(config):  # one that is not needed is not made: transformers would report its random weights
        options["add_pooling_layer"] = settings.get("pooling") == "pooler" and projection is None
    _weight_files(name, revision)
    with _explained(name, "weights"):
        backbone, found = AutoModel.from_pretrained(name, revision=revision, **options)
    if wrong := [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]:
        raise ValueError(
            f"{name}: {len(wrong)} weights are missing or of another size than config.json says, {min(wrong)} among "
            "them; they would be random. Take the config.json and all safetensors of one and the same model."
        )
    return LoadedModel(backbone, tokenizer, projection, settings)


def check_encoder(config: Any) -> None:
    """Refuse the configuration of a model that is not an encoder alone."""
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{config.model_type} is an encoder-decoder; give an encoder such as XLM-R or mBERT.")


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | os.PathLike[str], max_length: int) -> None:
    """Save a fast tokenizer that cuts at `max_length`, without the settings of its last call."""
    given = tokenizer.model_max_length
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.model_max_length = max_length
    try:
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.model_max_length = given


def find_file(name: str, revision: str | None, path: str) -> Path | None:
    """A file of a folder or Hub repository; `None` where there is no such file.

    Args:
        name (`str`): Folder or Hub id.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        path (`str`): Within it.

    Raises:
        LocalEntryNotFoundError: When the Hub cannot be asked; in offline mode, what is not in the cache is not there.
    """
    if Path(name).is_dir():
        file = Path(name, path)
        if os.path.lexists(file) and not file.is_file():
            raise ValueError(f"{file} is not a file but a folder, a pipe or a broken link; put the file there.")
        return file if file.is_file() else None
    try:
        return Path(hf_hub_download(name, path, revision=revision))
    except LocalEntryNotFoundError:
        if not is_offline_mode():
            raise  # a failed connection must not cost the model its prompts and pooling
        return None
    except EntryNotFoundError:
        return None


def read_layout(name: str, revision: str | None = None) -> Layout | None:
    """The sentence-transformers layout of a folder or Hub repository; `None` where there is none.

    Args:
        name (`str`): Folder or Hub id.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Raises:
        ValueError: When the layout has modules or settings that would be lost.

    Example:

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_layout(folder, pooling="cls", hidden_size=8, normalize=True, max_length=32)
        ...     read_layout(folder).settings["pooling"]
        'cls'
    """
    modules = _read_json(name, revision, "modules.json", list)
    if modules is None:
        return None
    paths = dict(_module(name, entry) for entry in modules)
    types = [module_type for module_type in ("Transformer", "Pooling", "Dense", "Normalize") if module_type in paths]
    if len(paths) < len(modules) or list(paths) != types or types[:2] != ["Transformer", "Pooling"]:
        found = ", ".join(entry["type"] for entry in modules) or "none"
        raise ValueError(f"{name}/modules.json: known are Transformer, Pooling, [Dense], [Normalize]; got {found}.")
    if paths["Transformer"]:
        raise ValueError(
            f"{name}: its weights lie in {paths['Transformer']}/; load and save it with sentence-transformers."
        )
    settings = {
        "pooling": _read_pooling(name, revision, paths["Pooling"]),
        "normalize": "Normalize" in paths,
        **_read_prompts(name, revision),
        **_read_max_length(name, revision),
    }
    return Layout(settings, _read_dense(name, revision, paths["Dense"]) if "Dense" in paths else None)


def write_layout(
    folder: str | os.PathLike[str],
    *,
    pooling: str,
    hidden_size: int,
    normalize: bool,
    max_length: int,
    query_prompt: str = "",
    passage_prompt: str = "",
    projection: nn.Sequential | None = None,
    projection_weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write the layout beside a model and its tokenizer.

    Args:
        folder (`str` or `Path`): Of the model.
        pooling (`str`): "mean" or "cls".
        hidden_size (`int`): Of the pooled state.
        normalize (`bool`): Embeddings are scaled to length 1, and compared by cosine; else by dot product.
        max_length (`int`): In tokens.
        query_prompt (`str`, *optional*, defaults to `""`): Put before every query.
        passage_prompt (`str`, *optional*, defaults to `""`): Put before every passage.
        projection (`nn.Sequential`, *optional*): A linear layer and an activation.
        projection_weights (`dict[str, torch.Tensor]`, *optional*): `weight` and `bias` of the linear layer, by default
            its own.
    """
    folder = Path(folder)
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    flags = {key: mode == pooling for mode, key in _POOLING_KEYS.items()}
    _write_json(
        folder / "1_Pooling/config.json", {"word_embedding_dimension": hidden_size, **flags, "include_prompt": True}
    )
    if projection is not None:
        paths["Dense"] = "2_Dense"
        weights = projection[0].state_dict() if projection_weights is None else projection_weights
        _write_dense(folder / "2_Dense", projection, weights)
    if normalize:
        paths["Normalize"] = f"{len(paths)}_Normalize"
        (folder / paths["Normalize"]).mkdir(exist_ok=True)
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{module_type}"}
        for number, (module_type, path) in enumerate(paths.items())
    ]
    _write_json(folder / "modules.json", modules)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    about = {
        "prompts": {"query": query_prompt, "document": passage_prompt},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine" if normalize else "dot",
    }
    _write_json(folder / "config_sentence_transformers.json", about)


def read_weights(folder: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """All tensors of `model.safetensors`, or of the shards that its index names.

    Args:
        folder (`str` or `Path`): Of the model.

    Raises:
        ValueError: When it has no safetensors.
    """
    parts = _weight_files(str(folder), None)
    return {name: weight for part in parts for name, weight in _load_tensors(str(folder), None, part).items()}


def read_dense_weights(folder: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """`weight` and `bias` of the projection that `write_layout` wrote."""
    tensors = _load_tensors(str(folder), None, f"2_Dense/{_WEIGHTS}")
    return {key.removeprefix("linear."): tensor for key, tensor in tensors.items()}


@contextmanager
def _explained(name: str, what: str) -> Iterator[None]:
    """Name the damaged file: the errors of the libraries have no common class and seldom name it."""
    try:
        yield
    except OSError:
        raise  # there is no such model, or no such file
    except Exception as error:
        raise ValueError(
            f"{name}: its {what} cannot be read ({type(error).__name__}: {error}). Save the model again with "
            "`save_pretrained`; code that comes with a model is not run."
        ) from error


def _weight_files(name: str, revision: str | None) -> list[str]:
    """`model.safetensors`, or the shards that its index names: files beside it."""
    index = _read_json(name, revision, f"{_WEIGHTS}.index.json")
    if index is None:
        return [_WEIGHTS]
    shards = index.get("weight_map")
    names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
    if not names or not all(part.endswith(".safetensors") and "/" not in part for part in names):
        raise ValueError(f"{name}/{_WEIGHTS}.index.json: names {names[:3]}; allowed are .safetensors files beside it.")
    return names


def _module(name: str, entry: Any) -> tuple[str, str]:
    """Return type and folder of a module. A module of another library has its full name as its type."""
    module_type, path = (entry.get(key) for key in ("type", "path")) if isinstance(entry, dict) else (None, None)
    if not isinstance(module_type, str) or not isinstance(path, str):
        raise ValueError(f"{name}/modules.json: allowed is a list of objects with the texts type and path.")
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{name}/modules.json: the path {path!r} leads out; allowed are folders of the model.")
    return module_type.rsplit(".", 1)[-1] if module_type.startswith("sentence_transformers.") else module_type, path


def _has_pooler(config: Any) -> bool:
    """Return whether the model has a dense layer with tanh over the first token's state, as BERT has."""
    model_class: Any = MODEL_MAPPING.get(type(config), None)
    return inspect.isclass(model_class) and "add_pooling_layer" in inspect.signature(model_class).parameters


def _is_pooler(projection: nn.Sequential | None, pooling: str, config: Any) -> bool:
    """Return whether a projection can be saved as the backbone's own pooler."""
    if projection is None or pooling != "cls" or not _has_pooler(config):
        return False
    linear, activation = projection
    square = linear.in_features == linear.out_features and linear.bias is not None
    return square and isinstance(activation, nn.Tanh)


def _load_tensors(name: str, revision: str | None, path: str) -> dict[str, torch.Tensor]:
    file = find_file(name, revision, path)
    if file is None:
        raise ValueError(
            f"{name} has no {path}; only safetensors are read. Convert other files with the library that wrote them, "
            "by `save_pretrained`."
        )
    with _explained(name, path):
        return load_file(file)


def _read_json(name: str, revision: str | None, path: str, module_type: type = dict) -> Any:
    """Read a JSON object or list; `None` if there is no such file."""
    file = find_file(name, revision, path)
    content = None if file is None else read_json(file)
    if file is not None and not isinstance(content, module_type):
        raise ValueError(f"{file}: allowed is a JSON {'object' if module_type is dict else 'list'}.")
    return content


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_pooling(name: str, revision: str | None, path: str) -> str:
    config = _read_json(name, revision, f"{path}/config.json") or {}
    named = config.get("pooling_mode")  # from release 5.4 on; before, one flag for each mode
    found = [named] if named else [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    modes = [mode for mode, key in _POOLING_KEYS.items() if found in ([mode], [key])]
    if not modes:
        raise ValueError(
            f"{name}/{path}: its pooling is {', '.join(map(str, found)) or 'missing'}; cls and mean are known."
        )
    if config.get("include_prompt") is False:
        raise ValueError(
            f"{name}/{path}: it leaves the prompt out of the pooling (include_prompt); that is not known here."
        )
    return modes[0]


def _read_prompts(name: str, revision: str | None) -> dict[str, str]:
    about = _read_json(name, revision, "config_sentence_transformers.json") or {}
    prompts = about.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(text is None or isinstance(text, str) for text in prompts.values()):
        raise ValueError(f"{name}/config_sentence_transformers.json: prompts are an object of texts by their names.")
    passage = next((prompts[key] for key in _PASSAGE_PROMPTS if prompts.get(key)), "")
    return {"query_prompt": prompts.get("query") or "", "passage_prompt": passage}


def _read_max_length(name: str, revision: str | None) -> dict[str, int]:
    config = _read_json(name, revision, "sentence_bert_config.json") or {}
    if config.get("do_lower_case"):
        raise ValueError(
            f"{name}/sentence_bert_config.json: do_lower_case; give the tokenizer a lower-case normalizer."
        )
    length = config.get("max_seq_length")
    if length is not None and (type(length) is not int or length < 1):
        raise ValueError(f"{name}/sentence_bert_config.json: max_seq_length is {length!r}; give at least 1.")
    return {"max_length": length} if length else {}


def _read_dense(name: str, revision: str | None, path: str) -> nn.Sequential:
    config = _read_json(name, revision, f"{path}/config.json") or {}
    activation = str(config.get("activation_function"))
    if activation not in _ACTIVATIONS or config.get("use_residual"):
        raise ValueError(f"{name}/{path}: a Dense module with tanh or no activation is known; got {activation}.")
    tensors = _load_tensors(name, revision, f"{path}/{_WEIGHTS}")
    with _explained(name, path):
        linear = nn.Linear(config["in_features"], config["out_features"], bias="linear.bias" in tensors)
        linear.load_state_dict({key.removeprefix("linear."): tensor for key, tensor in tensors.items()})
    return nn.Sequential(linear, _ACTIVATIONS[activation]())


def _write_dense(folder: Path, projection: nn.Sequential, weights: dict[str, torch.Tensor]) -> None:
    linear, activation = projection
    name = next(name for name, module_type in _ACTIVATIONS.items() if isinstance(activation, module_type))
    config = {"in_features": linear.in_features, "out_features": linear.out_features, "bias": linear.bias is not None}
    _write_json(folder / "config.json", {**config, "activation_function": name})
    save_file({f"linear.{key}": tensor.contiguous() for key, tensor in weights.items()}, folder / _WEIGHTS)
