"""A policy for TRL: the shipped tiny Qwen2.5-VL, with the part of its processor that works without torchvision."""

from typing import Any

from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from mprm.backbones.qwen2_5_vl import Qwen2_5_VL

# The prompt of ChatProcessor.ask(): one line per image, and below them the question.
TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{% for part in message.content %}{% if part.type == "image" %}<|vision_start|><|image_pad|><|vision_end|>
{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


class Processor(Qwen2_5_VLProcessor):
    def __init__(self, image_processor: Any, tokenizer: PreTrainedTokenizerBase, chat_template: str) -> None:
        self.image_token = "<|image_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token, self.video_token_id = "<|video_pad|>", -1  # transformers' own __init__ wants torchvision
        super(Qwen2_5_VLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template)


def load(folder: str) -> tuple[Qwen2_5_VLForConditionalGeneration, Processor]:
    ours, _ = Qwen2_5_VL(path=folder, max_length=512).load()
    policy = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype="float32")
    return policy, Processor(ours.images, ours.tokenizer, TEMPLATE)
