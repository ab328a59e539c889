"""Model folders: what is written loads everywhere, what is read is as others wrote it, the rest is refused."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from torch import nn
from transformers import AutoModel, AutoTokenizer, T5Config

from hf_hybrid.models import folder as model_folder
from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.models.folder import find_file, load_model, read_layout, read_weights, write_layout
from tests.support import families
from tests.support.families import FAMILIES, assert_near, differ

TEXTS = [*families.texts(1, 5, 30, 12), "word3 unheard-of word5"]
pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = {"query_prompt": "query: ", "passage_prompt": "passage: "}


def save(family: str, folder: Path, **settings: Any) -> HybridEncoder:
    encoder = families.encoder(family, **settings)
    encoder.save_pretrained(folder)
    return encoder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def plain(folder: Path, family: str = "bert") -> Path:
    """A folder as transformers writes it."""
    model = families.backbone(family)
    model.save_pretrained(folder)
    families.tokenizer(model.config.pad_token_id).save_pretrained(folder)
    return folder


def auto_model_embeddings(folder: Path, texts: list[str], pooling: str, normalize: bool) -> torch.Tensor:
    """What a user of `AutoModel` computes by hand."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        output = model(**inputs)
    mask = inputs["attention_mask"][..., None]
    pooled = {
        "mean": lambda: (output.last_hidden_state * mask).sum(1) / mask.sum(1),
        "cls": lambda: output.last_hidden_state[:, 0],
        "pooler": lambda: output.pooler_output,
    }[pooling]()
    return nn.functional.normalize(pooled, dim=-1) if normalize else pooled


class TestSavedFolder:
    @pytest.mark.parametrize("normalize", [True, False])
    @pytest.mark.parametrize(
        ("family", "pooling"),
        [(family, pooling) for family in FAMILIES for pooling in ("mean", "cls") if family != "labse"]
        + [("labse", "pooler"), ("xlm-roberta", "pooler"), ("mpnet", "pooler")],
    )
    def test_gives_the_same_embeddings_everywhere(
        self, tmp_path: Path, family: str, pooling: str, normalize: bool
    ) -> None:
        encoder = save(family, tmp_path, pooling=pooling, normalize=normalize, max_length=16, **PROMPTS)
        transformer = SentenceTransformer(str(tmp_path), device="cpu")
        again = HybridEncoder.from_pretrained(tmp_path)
        sides = {"query": transformer.encode_query, "passage": transformer.encode_document}
        for side, encode in sides.items():
            expected = encoder.encode(TEXTS, side)
            by_hand = [encoder.prompts[side] + text for text in TEXTS]
            assert_near(encode(TEXTS), expected)
            assert_near(auto_model_embeddings(tmp_path, by_hand, pooling, normalize), expected)
            assert_near(again.encode(TEXTS, side), expected)
            assert differ(expected[0], expected[1])
        assert differ(encoder.encode(TEXTS, "query"), encoder.encode(TEXTS, "passage"))
        assert transformer.similarity_fn_name == ("cosine" if normalize else "dot")

    @pytest.mark.parametrize("family", FAMILIES)
    def test_carries_every_setting(self, tmp_path: Path, family: str) -> None:
        encoder = save(family, tmp_path, normalize=False, max_length=16, **PROMPTS)
        again = HybridEncoder.from_pretrained(tmp_path)
        for name in ("pooling", "normalize", "prompts", "max_length", "attention", "embedding_size"):
            assert getattr(again, name) == getattr(encoder, name), name
        assert SentenceTransformer(str(tmp_path), device="cpu").max_seq_length == 16
        assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == 16
        longer = HybridEncoder.from_pretrained(tmp_path, max_length=1000)  # as far as the model has positions
        assert longer.max_length == families.MAX_LENGTH

    def test_holds_safetensors_only_and_no_path_or_backend_of_this_machine(self, tmp_path: Path) -> None:
        encoder = save("labse", tmp_path, **PROMPTS)
        encoder.encode(TEXTS, "query")
        encoder.save_pretrained(tmp_path)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {path.suffix for path in files} == {".json", ".safetensors"}
        for path in files:
            content = path.read_bytes()
            assert str(tmp_path).encode() not in content
            assert b"hf_hybrid" not in content
        assert json.loads((tmp_path / "tokenizer.json").read_text())["truncation"] is None

    def test_saving_leaves_the_tokenizer_as_it_was(self, tmp_path: Path) -> None:
        encoder = save("bert", tmp_path, max_length=16)
        assert encoder.tokenizer.model_max_length == families.MAX_LENGTH

    @pytest.mark.parametrize("pooling", ["cls", "mean"])
    def test_a_projection_to_another_size_is_kept(self, tmp_path: Path, pooling: str) -> None:
        projection = nn.Sequential(nn.Linear(32, 12, bias=False), nn.Identity())
        encoder = save("xlm-roberta", tmp_path, pooling=pooling, projection=projection)
        again = HybridEncoder.from_pretrained(tmp_path)
        assert (again.pooling, again.embedding_size) == (pooling, 12)
        expected = encoder.encode(TEXTS, "query")
        assert_near(again.encode(TEXTS, "query"), expected)
        assert_near(SentenceTransformer(str(tmp_path), device="cpu").encode_query(TEXTS), expected)


class TestSentenceTransformersFolder:
    def saved(self, folder: Path, *modules: nn.Module, **options: Any) -> SentenceTransformer:
        """A model that the installed release made and wrote."""
        transformer = Transformer(str(plain(folder / "plain", options.pop("family", "bert"))), max_seq_length=20)
        model = SentenceTransformer(modules=[transformer, *modules], device="cpu", **options)
        model.save(str(folder / "model"), create_model_card=False)
        return model

    def check(self, folder: Path, model: SentenceTransformer, **settings: Any) -> HybridEncoder:
        encoder = HybridEncoder.from_pretrained(folder / "model", **settings)
        assert_near(encoder.encode(TEXTS, "query"), model.encode_query(TEXTS))
        assert_near(encoder.encode(TEXTS, "passage"), model.encode_document(TEXTS))
        assert encoder.max_length == model.max_seq_length == 20
        return encoder

    @pytest.mark.parametrize("pooling", ["mean", "cls"])
    @pytest.mark.parametrize("family", ["bert", "xlm-roberta", "modernbert"])
    def test_written_by_the_installed_release(self, tmp_path: Path, family: str, pooling: str) -> None:
        prompts = {"query": "query: ", "document": "passage: "}
        model = self.saved(tmp_path, Pooling(32, pooling), Normalize(), family=family, prompts=prompts)
        encoder = self.check(tmp_path, model)
        assert (encoder.pooling, encoder.normalize) == (pooling, True)
        assert encoder.prompts == {"query": "query: ", "passage": "passage: "}

    def test_labse(self, tmp_path: Path) -> None:
        dense = Dense(32, 32, activation_function=nn.Tanh())  # other weights than those of the backbone's pooler
        model = self.saved(tmp_path, Pooling(32, "cls"), dense, Normalize())
        encoder = self.check(tmp_path, model)
        assert encoder.pooling == "pooler"
        own = HybridEncoder.from_pretrained(tmp_path / "plain", pooling="pooler")
        assert differ(own.encode(TEXTS, "query"), encoder.encode(TEXTS, "query"))
        other = HybridEncoder.from_pretrained(tmp_path / "model", pooling="mean")
        assert other.projection is None  # it was trained on another pooled state

    @pytest.mark.parametrize(
        ("family", "dense"),
        [("bert", Dense(32, 12, activation_function=nn.Tanh())), ("modernbert", Dense(32, 32)), ("bert", None)],
    )
    def test_projections_that_are_no_pooler(self, tmp_path: Path, family: str, dense: nn.Module | None) -> None:
        model = self.saved(tmp_path, Pooling(32, "cls"), *([dense] if dense else []), family=family)
        encoder = self.check(tmp_path, model)
        assert (encoder.pooling, encoder.normalize) == ("cls", False)

    def test_written_by_release_2(self, tmp_path: Path) -> None:
        folder = plain(tmp_path / "model", "xlm-roberta")
        (folder / "1_Pooling").mkdir()
        flags = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in ("cls_token", "mean_tokens", "max_tokens")}
        kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds.items())
        ]
        versions = {"__version__": {"sentence_transformers": "2.2.2", "transformers": "4.24.0", "pytorch": "1.13.0"}}
        contents: dict[str, Any] = {
            "1_Pooling/config.json": {"word_embedding_dimension": 32, **flags},
            "modules.json": modules,
            "sentence_bert_config.json": {"max_seq_length": 20, "do_lower_case": False},
            "config_sentence_transformers.json": versions,
        }
        for path, content in contents.items():
            (folder / path).write_text(json.dumps(content))
        encoder = self.check(tmp_path, SentenceTransformer(str(folder), device="cpu"))
        assert (encoder.pooling, encoder.normalize, encoder.prompts["query"]) == ("mean", True, "")

    def test_prompts_by_the_names_in_use(self, tmp_path: Path) -> None:
        write_layout(tmp_path, pooling="mean", hidden_size=32, normalize=True, max_length=16)
        about = tmp_path / "config_sentence_transformers.json"
        for name in ("document", "passage", "corpus"):
            edit(about, prompts={"query": None, name: "passage: "})
            layout = read_layout(str(tmp_path))
            assert layout is not None
            assert (layout.settings["query_prompt"], layout.settings["passage_prompt"]) == ("", "passage: ")

    @pytest.mark.parametrize(
        ("path", "changes", "message"),
        [
            ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "cls and mean are known"),
            ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "its pooling is lasttoken"),
            ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt"),
            ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.ReLU"}, "got .*ReLU"),
            ("2_Dense/config.json", {"use_residual": True}, "2_Dense"),
            ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case"),
        ],
    )
    def test_settings_that_would_be_lost_are_refused(
        self, tmp_path: Path, path: str, changes: dict[str, Any], message: str
    ) -> None:
        save("labse", tmp_path)
        edit(tmp_path / path, **changes)
        with pytest.raises(ValueError, match=message):
            HybridEncoder.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        "kinds",
        [
            ("Transformer", "Pooling", "Dense", "Dense"),
            ("Transformer", "Pooling", "Normalize", "Dense"),
            ("Transformer", "Pooling", "LayerNorm"),
            ("Transformer",),
            ("CLIPModel", "Pooling"),
        ],
    )
    def test_other_modules_are_refused(self, tmp_path: Path, kinds: tuple[str, ...]) -> None:
        modules = [{"path": "", "type": f"sentence_transformers.models.{kind}"} for kind in kinds]
        (tmp_path / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(ValueError, match=f"known are Transformer, Pooling.*{kinds[-1]}"):
            read_layout(str(tmp_path))

    def test_weights_in_a_subfolder_are_refused(self, tmp_path: Path) -> None:
        modules = [
            {"path": path, "type": f"sentence_transformers.models.{path[2:]}"}
            for path in ("0_Transformer", "1_Pooling")
        ]
        (tmp_path / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(ValueError, match="lie in 0_Transformer/"):
            read_layout(str(tmp_path))


class TestLoadModel:
    def test_a_plain_folder_gives_no_settings(self, tmp_path: Path) -> None:
        model = load_model(str(plain(tmp_path)))
        assert (model.settings, model.projection) == ({}, None)

    def test_pickled_weights_are_refused(self, tmp_path: Path) -> None:
        plain(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save(families.backbone("bert").state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(OSError, match=r"model\.safetensors"):
            load_model(str(tmp_path))

    def test_a_pickled_projection_is_refused(self, tmp_path: Path) -> None:
        save("labse", tmp_path)
        (tmp_path / "2_Dense" / "model.safetensors").rename(tmp_path / "2_Dense" / "pytorch_model.bin")
        with pytest.raises(ValueError, match=r"no 2_Dense/model\.safetensors; only safetensors are read"):
            load_model(str(tmp_path))

    def test_encoder_decoders_are_refused_before_their_weights_are_read(self, tmp_path: Path) -> None:
        T5Config(vocab_size=32, d_model=16, num_layers=1, num_heads=2).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="t5 is an encoder-decoder; give an encoder"):
            load_model(str(tmp_path))

    # What transformers has itself, what it has no tokenizer of, what it does not have.
    @pytest.mark.parametrize("model_type", ["bert", "eurobert", "made-up"])
    def test_code_of_the_repository_is_never_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
    ) -> None:
        plain(tmp_path)
        (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\nclass Model: pass\n")
        references = {"AutoConfig": "code.Model", "AutoModel": "code.Model", "AutoTokenizer": [None, "code.Model"]}
        edit(tmp_path / "config.json", model_type=model_type, auto_map=references)
        edit(tmp_path / "tokenizer_config.json", auto_map=references, tokenizer_class="Model")
        monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked whether to run it"))
        if model_type == "bert":
            assert type(load_model(str(tmp_path)).backbone).__module__.startswith("transformers.")
        else:
            with pytest.raises(ValueError, match="custom code"):
                load_model(str(tmp_path))
        assert not (tmp_path / "was-run").exists()


class TestFindFile:
    def test_what_the_hub_does_not_have_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(model_folder, "hf_hub_download", self.raising(EntryNotFoundError("no such file")))
        assert find_file("some/model", None, "modules.json") is None

    @pytest.mark.parametrize("offline", [True, False])
    def test_a_failed_connection_is_an_error_but_offline_mode_is_not(
        self, monkeypatch: pytest.MonkeyPatch, offline: bool
    ) -> None:
        monkeypatch.setattr(model_folder, "hf_hub_download", self.raising(LocalEntryNotFoundError("no connection")))
        monkeypatch.setattr(model_folder, "is_offline_mode", lambda: offline)
        if offline:
            assert read_layout("some/model") is None
        else:
            with pytest.raises(LocalEntryNotFoundError, match="no connection"):
                read_layout("some/model")

    @staticmethod
    def raising(error: Exception) -> Any:
        def download(*_: Any, **__: Any) -> str:
            raise error

        return download


class TestReadWeights:
    def test_shards_are_put_together(self, tmp_path: Path) -> None:
        model = families.backbone("bert")
        model.save_pretrained(tmp_path, max_shard_size="10KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
        weights, expected = read_weights(tmp_path), model.state_dict()
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)

    def test_a_folder_without_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no model\.safetensors; only safetensors are read"):
            read_weights(tmp_path)
