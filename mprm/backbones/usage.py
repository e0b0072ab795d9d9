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
In plain transformers. $words:

```python
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer, $processor

folder, $given
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
vision = $processor.from_pretrained(folder)([Image.open($picture).convert("RGB")], return_tensors="pt")
image = $image
text = $opening + image + $body + "<|im_end|>\\n"
ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
with torch.inference_mode():
    logits = model(input_ids=ids, $inputs).logits[0, $place]
logits = logits[..., tokenizer.convert_tokens_to_ids(["$no", "$yes"])]
$result
```
"""
OF_STEPS = {
    "words": "Behind every step stands `<prm>`, where the model says $yes or $no",
    "given": 'question, steps = ".", "What is blue plus purple?", ["blue is 3.", "purple is 7.", "The answer is 10."]',
    "body": r"""f"\nQuestion: {question}\nProcess: " + "\n\n".join(f"{step}<prm>" for step in steps)""",
    "place": 'ids[0] == tokenizer.convert_tokens_to_ids("<prm>")',
    "result": "scores = logits.softmax(-1)[:, 1].tolist()",
}
OF_ANSWERS = {
    "words": "The score of an answer is the logit of $yes minus that of $no where its turn has ended",
    "given": 'prompt, answer = ".", "What is blue plus purple?", "The answer is 10."',
    "body": r'''f"\n{prompt}<|im_end|>\n<|im_start|>assistant\n{answer}"''',
    "place": "-1",
    "result": "score = float(logits.diff())",
}
SCORE_OF_ANSWERS = """## Use

In plain transformers. The score of a conversation stands where the turn of the answer has ended, at the last token: the
one logit of AutoModelForSequenceClassification, of a vision-language model the logit of $yes minus that of $no.
"""


def usage(plain: tuple[str, str, str] | None, picture: str, prompt: tuple[str, str, str], rates_answers: bool) -> str:
    """Markdown. plain, picture: as ChatBackbone has them; prompt: its system, no and yes; rates_answers: of a reward
    model of whole answers."""
    system, no, yes = prompt
    opening = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    opening += "<|im_start|>user\n" + ("" if rates_answers else "<|im_end|>\n<|im_start|>assistant\n")
    parts = {"picture": picture, "opening": repr(opening), "no": no, "yes": yes}
    parts |= zip(("processor", "image", "inputs"), plain or (), strict=False)
    code = Template(IN_PLAIN_TRANSFORMERS).safe_substitute(OF_ANSWERS if rates_answers else OF_STEPS)
    if not plain:
        code = SCORE_OF_ANSWERS if rates_answers else ""
    return Template(code if rates_answers else WITH_MPRM + code).substitute(parts)
