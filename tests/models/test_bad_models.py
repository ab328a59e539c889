"""Damaged and hostile model folders: refused by name, or read without a line of what they bring being run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_hybrid.models.encoder import HybridEncoder
from tests.support.bad_inputs import Case, check, recipe, write
from tests.support.recipe_runs import write_jsonl_corpus, write_model

WEIGHTS, WORDS = "model.safetensors", "embeddings.word_embeddings.weight"
TANH = "torch.nn.modules.activation.Tanh"
Make = Callable[[Path], Any]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


class Evil:
    """Unpickled, it makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def canary(folder: Path) -> Path:
    return folder.parent / "canary"


def edit(name: str, **changes: Any) -> Make:
    """Other entries in a JSON file of the folder."""
    return lambda folder: write(folder / name, json.dumps(json.loads((folder / name).read_text()) | changes)) and None


def put(name: str, content: str | bytes) -> Make:
    return lambda folder: write(folder / name, content) and None


def drop(*names: str) -> Make:
    def make(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return make


def module(number: int, **changes: str) -> Make:
    """Other entries for a module in `modules.json`."""

    def make(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text())
        modules[number] |= changes
        write(folder / "modules.json", json.dumps(modules))

    return make


def cut(name: str, size: int) -> Make:
    return lambda folder: write(folder / name, (folder / name).read_bytes()[:size]) and None


def tensors(change: Callable[[Tensors], Any]) -> Make:
    def make(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file(found, folder / WEIGHTS, metadata={"format": "pt"})

    return make


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    write(folder / "pytorch_model.bin", pickle.dumps(Evil(canary(folder))))


def pickled_by_torch(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"x": Evil(canary(folder))}, folder / "pytorch_model.bin")


def index(part: str, then: Make = lambda folder: None) -> Make:
    """An index that names a part for every weight."""

    def make(folder: Path) -> None:
        names = load_file(folder / WEIGHTS)
        then(folder)
        write(folder / f"{WEIGHTS}.index.json", json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, part)}))

    return make


def code(model_type: str) -> Make:
    """Code beside the model, named wherever code can be named."""

    def make(folder: Path) -> None:
        write(folder / "evil.py", f"open({str(canary(folder))!r}, 'w')\nclass Evil: pass\n")
        names = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
        edit("config.json", auto_map=names, model_type=model_type)(folder)
        edit("tokenizer_config.json", auto_map=names, tokenizer_class="Evil")(folder)
        module(0, name="evil", type="sentence_transformers.models.Transformer")(folder)

    return make


def dense(**changes: Any) -> Make:
    """A projection, with other entries in its configuration."""

    def make(folder: Path) -> None:
        settings = {"in_features": 32, "out_features": 8, "bias": True, "activation_function": TANH, **changes}
        write(folder / "2_Dense" / "config.json", json.dumps(settings))
        weights = {"linear.weight": torch.ones(8, 32), "linear.bias": torch.ones(8)}
        save_file(weights, folder / "2_Dense" / WEIGHTS)
        module(2, path="2_Dense", type="sentence_transformers.models.Dense")(folder)

    return make


def pipe(name: str) -> Make:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return make


def link(to: str) -> Make:
    """The weights as a link, as they are in the cache of the Hub."""

    def make(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder.parent / "blob")
        (folder / WEIGHTS).symlink_to(folder.parent / to)

    return make


def encodes(folder_or_encoder: Any) -> bool:
    return bool(np.isfinite(folder_or_encoder.encode(["one", "two"], "query")).all())


KNOWN = r"modules\.json: known are Transformer, Pooling"
UNREADABLE = "its {} cannot be read .*Save the model again"
CASES: list[tuple[str, Make, Any]] = [
    ("the model as it was", lambda folder: None, encodes),
    ("pickled weights only", pickled, r"no file named model\.safetensors"),
    ("weights pickled by torch", pickled_by_torch, r"no file named model\.safetensors"),
    ("code for a model that is known", code("bert"), encodes),
    ("code for a model that is not", code("evil"), r"custom code.*code that comes with a model is not run"),
    ("a module that is no module", module(1, type="os.system"), KNOWN + ".* got .*os.system"),
    ("a module of code beside it", module(1, type="evil.Pooling"), KNOWN + r".* got .*evil\.Pooling"),
    ("a module in a folder above", module(1, path="../../etc"), r"modules\.json: the path '../../etc' leads out"),
    ("a module in a folder of the system", module(1, path="/etc"), r"modules\.json: the path '/etc' leads out"),
    ("modules that are no list", put("modules.json", "{}"), r"modules\.json: allowed is a JSON list"),
    ("modules that are words", put("modules.json", '["Pooling"]'), r"modules\.json: allowed is a list of objects"),
    ("no module", put("modules.json", "[]"), KNOWN + ".* got none"),
    ("modules that are not JSON", put("modules.json", "["), r"modules\.json, line 1: not JSON"),
    ("modules from a pipe", pipe("modules.json"), r"modules\.json is not a file but .* a pipe"),
    ("no pooling", drop("1_Pooling/config.json"), "1_Pooling: its pooling is missing; cls and mean are known"),
    ("a pooling that is no object", put("1_Pooling/config.json", "[]"), "config.json: allowed is a JSON object"),
    (
        "prompts that are numbers",
        edit("config_sentence_transformers.json", prompts={"query": 3}),
        "prompts are an obj",
    ),
    (
        "a negative length",
        edit("sentence_bert_config.json", max_seq_length=-1),
        "max_seq_length is -1; give at least 1",
    ),
    ("a configuration cut off", cut("config.json", 40), r"config\.json' is not a valid JSON file"),
    ("a configuration that is null", put("config.json", "null"), UNREADABLE.format("configuration")),
    ("a size that is a word", edit("config.json", hidden_size="x"), "(?s)" + UNREADABLE.format("configuration")),
    ("a negative size", edit("config.json", vocab_size=-1), UNREADABLE.format("weights")),
    ("another size than the weights", edit("config.json", vocab_size=10), "1 weights are missing or of another size"),
    ("an activation that is code", edit("config.json", hidden_act="os.system"), UNREADABLE.format("weights")),
    (
        "an encoder with a decoder",
        edit("config.json", is_encoder_decoder=True),
        "is an encoder-decoder; give an encoder",
    ),
    ("weights cut off", cut(WEIGHTS, 5000), UNREADABLE.format("weights")),
    ("weights of no byte", cut(WEIGHTS, 0), UNREADABLE.format("weights")),
    ("a header of 2^63 bytes", put(WEIGHTS, b"\xff" * 64), UNREADABLE.format("weights")),
    ("a weight missing", tensors(lambda found: found.pop(WORDS)), f"1 weights are missing .*{WORDS}"),
    (
        "a weight of another shape",
        tensors(lambda found: found.update({WORDS: found[WORDS][:, :3].contiguous()})),
        f"1 weights are missing or of another size .*{WORDS}",
    ),
    ("a tensor that nobody asks for", tensors(lambda found: found.update(evil=torch.ones(3))), encodes),
    ("weights that are a link", link("blob"), encodes),
    ("weights that are a broken link", link("nothing"), r"no file named model\.safetensors"),
    ("weights from a pipe", pipe(WEIGHTS), r"no file named model\.safetensors"),
    ("an index of files above", index("../model.safetensors", link("blob")), r"index\.json: names .* files beside it"),
    ("an index of pickled weights", index("pytorch_model.bin", pickled), r"index\.json: names .* files beside it"),
    (
        "no tokenizer",
        drop("tokenizer.json", "tokenizer_config.json"),
        "its tokenizer cannot be read .*no tokenizer.json",
    ),
    ("a tokenizer cut off", cut("tokenizer.json", 500), UNREADABLE.format("tokenizer")),
    ("a tokenizer of another kind", edit("tokenizer.json", model={"type": "Evil"}), UNREADABLE.format("tokenizer")),
    ("a tokenizer that is a list", put("tokenizer.json", "[1]"), UNREADABLE.format("tokenizer")),
    ("a projection", dense(), encodes),
    ("a projection of another size", dense(out_features=9), "(?s)" + UNREADABLE.format("2_Dense")),
    ("a projection without size", dense(in_features=None), "(?s)" + UNREADABLE.format("2_Dense")),
    (
        "a projection through code",
        dense(activation_function="os.system"),
        "tanh or no activation is known; got os.sys",
    ),
]


@pytest.mark.parametrize(("what", "change", "answer"), CASES, ids=[what for what, *_ in CASES])
def test_a_bad_model(
    what: str, change: Make, answer: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(folder: Path) -> None:
        shutil.copytree(model, folder, dirs_exist_ok=True)
        change(folder)

    check(Case(f"model: {what}", make, HybridEncoder.from_pretrained, answer), tmp_path, monkeypatch)


def test_the_pickle_of_these_tests_runs_where_pickles_are_loaded(tmp_path: Path) -> None:
    """Else that nothing ran would say nothing."""
    (tmp_path / "model").mkdir()
    write(tmp_path / "model" / WEIGHTS, b"")
    pickled(tmp_path / "model")
    pickle.loads((tmp_path / "model" / "pytorch_model.bin").read_bytes())
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("max_length", [-1, 0, 2])
def test_a_length_without_room_for_a_token_is_refused(max_length: int, model: Path) -> None:
    with pytest.raises(ValueError, match=f"max_length={max_length}: no token of a text is left; give more than 2"):
        HybridEncoder.from_pretrained(model, max_length=max_length)


def test_weights_that_are_nan_are_named_at_the_door(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_jsonl_corpus(tmp_path / "corpus", num_items=9)

    def make(folder: Path) -> None:
        shutil.copytree(model, folder, dirs_exist_ok=True)
        tensors(lambda found: found.update({name: weight * torch.nan for name, weight in found.items()}))(folder)

    def read(folder: Path) -> None:
        output = folder.parent / "output"
        recipe("eval", "--model", folder, "--corpus", corpus, "--output_dir", output, "--use_cpu", "true")

    check(
        Case("model: weights that are NaN", make, read, "are not finite .*Has training diverged"),
        tmp_path,
        monkeypatch,
    )
