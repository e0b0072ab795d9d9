"""What an existing process reward model is: a folder that others have trained, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Protocol

from transformers import PreTrainedTokenizerBase

from mprm.backbones.base import Processor, StepHead, StepModel
from mprm.backbones.chat import ChatModel
from mprm.inference.scoring import OpenImages, Scored, ScoreRequest, Scoring

ScoredBy = Callable[[Sequence[ScoreRequest], OpenImages], Scored]


class PRM(Protocol):
    """Component of the config group `model`: a frozen dataclass whose fields are its options."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def path(self) -> str | None:
        """Folder of the weights."""

    def scorer(self, max_tokens: int, device: str, num_workers: int = 0) -> ScoredBy:
        """Load the model on the device; what is returned scores solutions in forward passes of so many tokens, which so
        many loader workers read ahead. Raises ValueError if the folder is missing or holds another architecture."""


WRONG, RIGHT = "-", "+"  # how most of them answer


@dataclass(frozen=True, kw_only=True)
class StepwisePRM:
    """What the PRMs share that say how right every step is at a place of their own prompt."""

    path: str | None = None  # folder of the downloaded weights
    max_length: int = 8192  # tokens; a longer solution is left out and counted
    dtype: str = "stored"  # of the weights; stored: as in the folder, or float32, bfloat16
    exact: bool = True  # false: one solution after the other, for layers that rows of many cannot be computed with

    def load(self) -> tuple[Processor, StepModel]:
        """The processor that lays out the PRM's own prompt, and the model with the PRM's own head."""
        raise NotImplementedError

    @property
    def loaded_as(self) -> dict[str, Any]:
        """What the backbone is told that loads the folder."""
        options = {name: getattr(self, name) for name in ("path", "max_length", "dtype", "exact")}
        return options | {"no": WRONG, "yes": RIGHT}

    def scorer(self, max_tokens: int, device: str, num_workers: int = 0) -> ScoredBy:
        try:
            processor, model = self.load()
        except ValueError as error:  # a backbone names its own group, whose options are the model's here
            raise ValueError(str(error).replace("backbone", "model")) from None
        return Scoring(model, processor, self.max_length, max_tokens, device, num_workers).scores


def set_verdicts(model: ChatModel, tokenizer: PreTrainedTokenizerBase, wrong: str, right: str) -> None:
    """Have the model's head compare two entries of its own vocabulary. Raises ValueError if it has no such tokens."""
    ids = tokenizer.convert_tokens_to_ids([wrong, right])
    if None in ids or tokenizer.unk_token_id in ids:
        raise ValueError(
            f"backbone.path={model.hf.config.name_or_path}: its tokenizer has no tokens {wrong!r} and {right!r}, by "
            "which such a model answers; choose another backbone="
        )
    model.head = StepHead(model.hf.get_output_embeddings().get_parameter("weight").detach()[ids])
