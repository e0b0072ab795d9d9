"""How an exported model is used, for its model card: code that is run in its folder."""

from string import Template

WITH_MPRM = """## Use

With mprm:

```python
from mprm import StepScorer

scorer = StepScorer.from_pretrained(".")  # this folder, or its id on the hub, ORG/NAME
scorer.score($picture, "What is blue plus purple?", ["blue is 3.", "purple is 7.", "The answer is 10."])
```
"""
AS_A_JUDGE = """## Use

With mprm:

```python
from mprm import Judge

judge = Judge.from_pretrained(".")  # this folder, or its id on the hub, ORG/NAME
found = judge.compare("chart.png", "What is blue plus purple?", "The answer is 10.", "The answer is 7.", votes=8)
print(found.winner, found.share, found.reasoning)
```
"""
IN_PLAIN_TRANSFORMERS = """
In plain transformers. Behind every step stands `<prm>`, where the model says $yes or $no:

```python
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer, $processor

folder, question, steps = ".", "What is blue plus purple?", ["blue is 3.", "purple is 7.", "The answer is 10."]
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
vision = $processor.from_pretrained(folder)([Image.open($picture).convert("RGB")], return_tensors="pt")
image = $image
text = $opening + image + f"\\nQuestion: {question}\\nProcess: "
text += "\\n\\n".join(f"{step}<prm>" for step in steps) + "<|im_end|>\\n"
ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
with torch.inference_mode():
    logits = model(input_ids=ids, $inputs).logits[0, ids[0] == tokenizer.convert_tokens_to_ids("<prm>")]
scores = logits[:, tokenizer.convert_tokens_to_ids(["$no", "$yes"])].softmax(-1)[:, 1].tolist()
```
"""


def usage(plain: tuple[str, str, str] | None, picture: str, system: str, no: str, yes: str) -> str:
    """Markdown. plain, picture: as ChatBackbone has them."""
    opening = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    opening += "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
    parts = {"picture": picture, "opening": repr(opening), "no": no, "yes": yes}
    parts |= zip(("processor", "image", "inputs"), plain or (), strict=False)
    return Template(WITH_MPRM + (IN_PLAIN_TRANSFORMERS if plain else "")).substitute(parts)
