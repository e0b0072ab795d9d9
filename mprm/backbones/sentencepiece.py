"""Tokenizers of downloaded folders, without running code from there: tokenizer.json, Qwen2's vocab.json and merges.txt,
or sentencepiece converted."""

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import generate_merges, import_protobuf

from mprm.runs.artifacts import reading

QWEN2 = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
SPACE = "▁"  # how sentencepiece writes a space in its pieces
BPE_MODEL = 2  # TrainerSpec.ModelType
NORMAL, UNKNOWN, USER_DEFINED, UNUSED, BYTE = 1, 2, 4, 5, 6  # SentencePiece.Type; 3 is control
NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Tokenizer of a folder: from tokenizer.json, else from the files of a Qwen2Tokenizer or a sentencepiece
    tokenizer.model.

    What is converted from sentencepiece gives the ids of the tokenizer class the folder was made for: text is cut at
    the added tokens and what lies between is encoded by sentencepiece on its own. It differs in this alone:
    - The name of a piece whose id an added token has taken over (InternLM2's "[UNUSED_TOKEN_146]", now "<|im_start|>")
      is ordinary text, so that user text cannot make special tokens.
    - With split_special_tokens, added tokens that are not special are cut out all the same.
    - With add_dummy_prefix, text that is one user-defined symbol and nothing else gets no prefix.
    - Decoding prints an unknown token by its name.

    Raises ValueError if there is no such file, the model cannot be converted exactly (not BPE, a character map such as
    nmt_nfkc, spaces as suffix or removed), or the ids of the added tokens contradict each other.
    """
    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    config = _read_json(folder, "tokenizer_config.json")
    if config.get("tokenizer_class") in QWEN2 and (folder / "vocab.json").is_file():
        return Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    if not (folder / "tokenizer.model").is_file():
        raise ValueError(
            f"backbone.path={folder} has neither tokenizer.json nor tokenizer.model; download the tokenizer files too"
        )
    model = _read_model(folder)
    names = _read_json(folder, "special_tokens_map.json")
    added = _added_tokens(folder, config, names)
    named = {key: _content(value) for key in NAMED if (value := config.get(key) or names.get(key))}
    return PreTrainedTokenizerFast(
        tokenizer_object=_convert(folder, model, added),
        clean_up_tokenization_spaces=False,
        add_bos_token=config.get("add_bos_token", False),
        add_eos_token=config.get("add_eos_token", False),
        **named,
    )


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    """Contents of a file of the folder, empty if it is not there."""
    path = folder / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]


def _inexact(folder: Path, reason: str) -> ValueError:
    path = folder / "tokenizer.model"
    return ValueError(f"{path} cannot be converted: {reason}; put the model's tokenizer.json into the folder")


def _contradiction(folder: Path, said: str) -> ValueError:
    files = "tokenizer_config.json, added_tokens.json and tokenizer.model"
    return ValueError(f"{folder} gives {said}; download {files} again")


def _read_model(folder: Path) -> Any:
    """The sentencepiece ModelProto. Raises ValueError if it is none, or one that cannot be converted exactly."""
    model, path = import_protobuf().ModelProto(), folder / "tokenizer.model"
    with reading(path, "download it again"):
        model.ParseFromString(path.read_bytes())
    if model.trainer_spec.model_type != BPE_MODEL:
        raise _inexact(folder, "it is no BPE model")
    if model.normalizer_spec.precompiled_charsmap:
        # `tokenizers` maps grapheme by grapheme, sentencepiece takes the longest match: "\r\n" is one space or two.
        raise _inexact(folder, f"its character map {model.normalizer_spec.name!r} has no exact equivalent")
    if model.trainer_spec.treat_whitespace_as_suffix or not model.normalizer_spec.escape_whitespaces:
        raise _inexact(folder, "it does not write a space as a prefix of the word")
    if model.normalizer_spec.remove_extra_whitespaces:
        raise _inexact(folder, "it removes spaces that stand side by side")
    return model


def _added_tokens(folder: Path, config: dict[str, Any], names: dict[str, Any]) -> dict[int, AddedToken]:
    """Added tokens by id, from tokenizer_config.json and, where that lacks them, added_tokens.json."""
    added: dict[int, AddedToken] = {}
    for token_id, entry in config.get("added_tokens_decoder", {}).items():
        flags = {flag: entry.get(flag, False) for flag in ("lstrip", "rstrip", "single_word", "special")}
        # The original cuts the text before it normalises, whatever the file says.
        added[int(token_id)] = AddedToken(entry["content"], normalized=False, **flags)
    listed = [*names.get("additional_special_tokens", []), *(names[key] for key in NAMED if names.get(key))]
    special = {_content(token) for token in listed}
    ids = {token.content: token_id for token_id, token in added.items()}
    for content, token_id in _read_json(folder, "added_tokens.json").items():
        if ids.get(content, token_id) != token_id or (token_id in added and added[token_id].content != content):
            said = f"token {content!r} the id {token_id} in added_tokens.json and another in tokenizer_config.json"
            raise _contradiction(folder, said)
        if token_id not in added:
            added[token_id] = AddedToken(content, normalized=False, special=content in special)
    return added


def _convert(folder: Path, model: Any, added: dict[int, AddedToken]) -> Tokenizer:
    """The model in the form of the `tokenizers` library, with the added tokens at their ids."""
    own = dict(enumerate(model.pieces))
    renamed = {
        token_id for token_id, token in added.items() if token_id in own and own[token_id].piece != token.content
    }
    symbols = [p.piece for token_id, p in own.items() if p.type == USER_DEFINED and token_id not in renamed]
    merges = _merges(folder, model)
    _check_renamed(folder, [own[token_id] for token_id in renamed], merges)
    vocab = {p.piece: token_id for token_id, p in own.items() if token_id not in renamed}
    for token_id, token in added.items():
        if vocab.setdefault(token.content, token_id) != token_id:
            raise _contradiction(folder, f"token {token.content!r} the ids {vocab[token.content]} and {token_id}")
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=merges,
            unk_token=next(p.piece for p in model.pieces if p.type == UNKNOWN),
            fuse_unk=True,
            byte_fallback=model.trainer_spec.byte_fallback,
        )
    )
    tokenizer.normalizer = _normalizer(folder, model.normalizer_spec, symbols)
    tokenizer.decoder = _decoder(model.normalizer_spec)
    # sentencepiece finds these in the normalised text, so that what is around them keeps its place in the text.
    tokenizer.add_tokens([AddedToken(symbol, normalized=True, special=False) for symbol in symbols])
    for _, token in sorted(added.items()):
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    return tokenizer


def _check_renamed(folder: Path, pieces: list[Any], merges: list[tuple[str, str]]) -> None:
    """Raises ValueError if an added token has taken the id of a piece that ordinary text is made of."""
    used = {part for left, right in merges for part in (left, right, left + right)}
    for piece in pieces:
        if piece.piece in used or len(piece.piece) == 1 or piece.type in (UNKNOWN, BYTE):
            raise _contradiction(folder, f"an added token the id of {piece.piece!r}, which ordinary text needs")


def _merges(folder: Path, model: Any) -> list[tuple[str, str]]:
    """Pairs in the order in which sentencepiece merges them: by falling score of the piece they make.

    sentencepiece makes a piece of any of its splits and among equal scores takes the leftmost; `tokenizers` ranks every
    split on its own. But what happens inside a stretch of text that nothing has merged into from outside is what
    happens to that stretch alone, so only one split of a piece ever comes about. With one piece a score both orders
    are the same.
    """
    types = {p.piece: p.type for p in model.pieces}
    scores = {p.piece: p.score for p in model.pieces if p.type in (NORMAL, UNUSED)}
    merges: list[tuple[str, str]] = generate_merges(scores, scores)
    made: dict[float, str] = {}
    for piece in ("".join(pair) for pair in merges):
        if made.setdefault(scores[piece], piece) != piece:
            raise _inexact(folder, f"{piece!r} and {made[scores[piece]]!r} have the same score")
        if types[piece] == UNUSED:
            raise _inexact(folder, f"{piece!r} is made and split again")
    return merges


def _normalizer(folder: Path, spec: Any, symbols: list[str]) -> normalizers.Normalizer:
    """Spaces as sentencepiece treats them, for a text between two added tokens."""
    if any(" " in symbol for symbol in symbols):
        raise _inexact(folder, "it has a user-defined symbol with a space")
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", SPACE)]
    if spec.add_dummy_prefix:
        # `tokenizers` normalises the symbols too before it looks for them, and they must stay as they are.
        alone = rf"(?!(?:{'|'.join(map(re.escape, symbols))})\z)" if symbols else ""
        steps.append(normalizers.Replace(Regex(rf"\A(?!\z){alone}"), SPACE))
    return normalizers.Sequence(steps)


def _decoder(spec: Any) -> decoders.Decoder:
    steps: list[decoders.Decoder] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", left=1))
    return decoders.Sequence(steps)
