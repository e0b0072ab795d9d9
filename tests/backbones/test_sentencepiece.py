"""The converted tokenizer against sentencepiece itself, on small models trained here."""

import io
import json
import pickle
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece as spm
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import import_protobuf

from mprm.backbones.sentencepiece import load_tokenizer

CHECKPOINT = Path(__file__).parents[1] / "oracle_data" / "internvl" / "checkpoint"
SYMBOLS = ["<u>", "<u>x", "12"]
# name: add_dummy_prefix, user-defined symbols, byte fallback
VARIANTS = {
    "plain": (False, [], True),
    "prefix": (True, [], True),
    "symbols": (False, SYMBOLS, True),
    "symbols-prefix": (True, SYMBOLS, True),
    "unknown": (True, [], False),
}


def corpus() -> list[str]:
    """Sentences with runs of the same letter, of spaces and of newlines, so that pieces have many splits."""
    rng = random.Random(0)
    words = ["the", "answer", "is", "aaaa", "aabaab", "abab", "   ", "\n\n", "====", "é", "日本", "red", "1234", "aaa "]
    return [" ".join(rng.choices(words, k=8)) for _ in range(400)]


def train(prefix: bool = False, symbols: list[str] = (), fallback: bool = True, **more) -> bytes:
    model = io.BytesIO()
    options = {"model_type": "bpe", "normalization_rule_name": "identity", "vocab_size": 480}
    options |= {"remove_extra_whitespaces": False, **more}
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        hard_vocab_limit=False,
        byte_fallback=fallback,
        add_dummy_prefix=prefix,
        user_defined_symbols=list(symbols),
        allow_whitespace_only_pieces=True,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def write(folder: Path, model: bytes, **files: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple]:
    """pair(variant): sentencepiece's own processor and the converted tokenizer."""
    made: dict[str, tuple] = {}

    def pair(variant: str) -> tuple:
        if variant not in made:
            model = train(*VARIANTS[variant])
            folder = write(tmp_path_factory.mktemp(variant), model)
            made[variant] = (spm.SentencePieceProcessor(model_proto=model), load_tokenizer(folder))
        return made[variant]

    return pair


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer([text], add_special_tokens=False, split_special_tokens=True)["input_ids"][0]


FRAGMENTS = [
    "a",
    "aa",
    "b",
    "ab",
    " ",
    "  ",
    "\n",
    "\r\n",
    "=",
    "the",
    "answer",
    "1",
    "12",
    "<u>",
    "x",
    "<s>",
    "<0x41>",
]
TEXT = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(st.sampled_from([*FRAGMENTS, "▁", "é", "e\u0301", "日本", "🙂", "\0", "<unk>"]), max_size=24).map("".join),
)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=400, deadline=None)
@given(text=TEXT)
def test_ids_and_text_are_sentencepiece_s_own(pair: Callable[[str], tuple], variant: str, text: str) -> None:
    original, tokenizer = pair(variant)
    if VARIANTS[variant][0] and text.strip(" ▁") in VARIANTS[variant][1]:
        return  # a symbol on its own gets no prefix: test_a_symbol_on_its_own_gets_no_prefix
    ids = encode(tokenizer, text)
    assert ids == original.encode(text)
    if original.unk_id() not in ids:
        assert tokenizer.decode(ids) == original.decode(ids)


@pytest.mark.parametrize("text", ["<u>", "12"])
def test_a_symbol_on_its_own_gets_no_prefix(pair: Callable[[str], tuple], text: str) -> None:
    original, tokenizer = pair("symbols-prefix")
    assert encode(tokenizer, text) == original.encode(text)[1:]
    assert encode(tokenizer, text + "a") == original.encode(text + "a")


ADDED = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>"]
TEMPLATE = "<|im_start|>user\n<|im_end|>\n<img><IMG_CONTEXT><IMG_CONTEXT></img>\n the answer <s> aaaa</s>"


def flags(content: str, **changed: bool) -> dict:
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False} | {
        "special": True,
        **changed,
    }


def internlm2(folder: Path, kind: int, prefix: bool, **changes: dict) -> tuple[Path, bytes, dict[str, int]]:
    """A folder laid out as InternVL2.5-8B's: two placeholder pieces renamed, four tokens behind the vocabulary."""
    model = import_protobuf().ModelProto.FromString(train(prefix))
    for number in range(3):
        model.pieces.add(piece=f"[UNUSED_TOKEN_{number}]", score=0.0, type=kind)
    size = len(model.pieces)
    added = {token: size + i for i, token in enumerate(ADDED)}
    renamed = {"<|im_end|>": size - 2, "<|im_start|>": size - 1}
    own = {"<unk>": 0, "<s>": 1, "</s>": 2}
    config = {
        "tokenizer_class": "InternLM2Tokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "added_tokens_decoder": {str(token_id): flags(token) for token, token_id in (own | renamed).items()},
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
    }
    names = {"bos_token": "<s>", "additional_special_tokens": [*ADDED, "<|im_start|>", "<|im_end|>"]}
    files = {"tokenizer_config": config, "special_tokens_map": names, "added_tokens": added} | changes
    return write(folder, model.SerializeToString(), **files), model.SerializeToString(), own | renamed | added


def cut(original: spm.SentencePieceProcessor, tokens: dict[str, int], text: str) -> list[int]:
    """What the original class does: cut at the added tokens, encode what lies between."""
    ids = []
    for part in re.split("(" + "|".join(map(re.escape, tokens)) + ")", text):
        ids += [tokens[part]] if part in tokens else original.encode(part)
    return ids


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("kind", [1, 3, 4, 5])  # normal, control, user-defined, unused
def test_added_tokens_have_their_ids(tmp_path: Path, kind: int, prefix: bool) -> None:
    folder, model, tokens = internlm2(tmp_path, kind, prefix)
    original, tokenizer = spm.SentencePieceProcessor(model_proto=model), load_tokenizer(folder)
    assert len(tokenizer) == len(original) + len(ADDED)
    assert tokenizer.convert_tokens_to_ids(list(tokens)) == list(tokens.values())
    assert tokenizer.encode(TEMPLATE, add_special_tokens=False) == cut(original, tokens, TEMPLATE)
    assert tokenizer.decode(list(tokens.values())) == "".join(tokens)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert (tokenizer.unk_token_id, tokenizer.encode("a")[0]) == (0, 1)
    tokenizer.add_tokens(["<prm>"], special_tokens=True)
    assert tokenizer.convert_tokens_to_ids("<prm>") == max(tokens.values()) + 1


@pytest.mark.parametrize("kind", [1, 4])
def test_special_tokens_in_user_text_are_ordinary_text(tmp_path: Path, kind: int) -> None:
    folder, model, tokens = internlm2(tmp_path, kind, prefix=True)
    original, tokenizer = spm.SentencePieceProcessor(model_proto=model), load_tokenizer(folder)
    pieces = [TEMPLATE, "", "x<s>"]
    ids = tokenizer(pieces, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert ids == [original.encode(piece) for piece in pieces]
    assert not set(tokens.values()) & {token_id for piece in ids for token_id in piece}
    assert tokens["<|im_start|>"] not in encode(tokenizer, "[UNUSED_TOKEN_2]user")
    assert encode(tokenizer, "a[UNUSED_TOKEN_0]b") == original.encode("a[UNUSED_TOKEN_0]b")
    assert tokenizer.encode("<s>", add_special_tokens=False) == [1]  # the next call cuts again


def test_flags_of_added_tokens(tmp_path: Path) -> None:
    decoder = {"500": flags("<a>", lstrip=True), "501": flags("<b>", rstrip=True, special=False), "700": flags("<c>")}
    tokenizer = load_tokenizer(write(tmp_path, train(), tokenizer_config={"added_tokens_decoder": decoder}))
    found = {str(i): token for i, token in tokenizer.added_tokens_decoder.items()}
    for token_id, entry in decoder.items():
        assert {name: getattr(found[token_id], name) for name in entry} == entry
    assert encode(tokenizer, "<c>") != [700]
    a = tokenizer.encode("a")
    assert tokenizer.encode("a  <a>a<b>  a<c>") == [*a, 500, *a, 501, *a, 700]


def test_it_is_the_same_after_pickling(pair: Callable[[str], tuple]) -> None:
    for variant in VARIANTS:
        _, tokenizer = pair(variant)
        text = "the  <u>x answer 12\n aaaa 🙂"
        assert encode(pickle.loads(pickle.dumps(tokenizer)), text) == encode(tokenizer, text)


def test_tokenizer_json_is_read_without_the_class_the_folder_names(tmp_path: Path) -> None:
    folder = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "InternLM2Tokenizer"
    config["auto_map"] = {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}
    config["added_tokens_decoder"]["410"] = flags("<new>")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    reference = AutoTokenizer.from_pretrained(CHECKPOINT)
    for found in (load_tokenizer(CHECKPOINT), load_tokenizer(folder)):
        text = "<|im_start|>user\n<|im_end|>\n<img><IMG_CONTEXT></img>red is 12.<prm> é"
        assert found.encode(text, add_special_tokens=False) == reference.encode(text, add_special_tokens=False)
        assert encode(found, text) == encode(reference, text)
        assert (found.pad_token, found.eos_token, found.bos_token) == ("<pad>", "<|im_end|>", "<s>")
    assert found.encode("<new>", add_special_tokens=False) == [410]


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^backbone\.path=.* has neither tokenizer\.json nor tokenizer\.model; .*$"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model_type": "unigram", "vocab_size": 300}, "no BPE model"),
        ({"normalization_rule_name": "nmt_nfkc"}, "'nmt_nfkc' has no exact equivalent"),
        ({"treat_whitespace_as_suffix": True}, "a space as a prefix"),
        ({"remove_extra_whitespaces": True}, "removes spaces"),
        ({"symbols": ["a b"]}, "user-defined symbol with a space"),
    ],
)
def test_models_without_an_exact_equivalent_are_refused(tmp_path: Path, options: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^[^\n]*tokenizer\.model cannot be converted: [^\n]*{reason}[^\n]*$"):
        load_tokenizer(write(tmp_path, train(**options)))


def test_merges_without_an_exact_equivalent_are_refused(tmp_path: Path) -> None:
    def refusal(change: Callable) -> str:
        model = import_protobuf().ModelProto.FromString(train())
        pieces = {piece.piece: piece for piece in model.pieces}
        change(model.pieces, pieces)
        with pytest.raises(ValueError, match=r"^[^\n]*tokenizer\.model cannot be converted[^\n]*$") as error:
            load_tokenizer(write(tmp_path, model.SerializeToString()))
        return str(error.value)

    assert "'he' and 'aa' have the same" in refusal(lambda _, own: setattr(own["he"], "score", own["aa"].score))
    assert "'aa' is made and split again" in refusal(lambda _, own: setattr(own["aa"], "type", 5))


def test_a_broken_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*tokenizer\.model cannot be read[^\n]*again$"):
        load_tokenizer(write(tmp_path, b"version https://example.org"))


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ({"<img>": 9, "<|im_start|>": 8}, "another in tokenizer_config"),
        ({"<box>": 1}, "another in tokenizer_config"),
        ({"<box>": 262 + 5}, "which ordinary text needs"),
        ({"<0x41>": 900}, "the ids"),
    ],
)
def test_contradicting_ids_are_refused(tmp_path: Path, added: dict[str, int], reason: str) -> None:
    folder, _, _ = internlm2(tmp_path, kind=4, prefix=False, added_tokens=added)
    with pytest.raises(ValueError, match=rf"^[^\n]*{reason}[^\n]*$"):
        load_tokenizer(folder)
