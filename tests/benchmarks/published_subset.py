"""What the published subset builder does: python published_subset.py ANNOTATIONS ALPHA RATIO OUTPUT."""

import json
import sys
from pathlib import Path


def main(folder: str, alpha: float, ratio: float, output: str) -> None:
    with open(output, "w", encoding="utf-8") as out:
        for path in sorted(Path(folder).glob("*.jsonl")):
            ranked, start = [], 0
            with open(path, "rb") as file:
                for line in file:
                    scores = [step["score"] for step in json.loads(line)["steps_with_score"]]
                    positive = [score for score in scores if score > 0]
                    share = len(positive) / len(scores)
                    reliability = sum(positive) / len(positive) if positive else 1.0
                    ranked.append((-(share * (1 - share) + alpha) * reliability, start))
                    start += len(line)
                for start in sorted(start for _, start in sorted(ranked)[: max(1, int(len(ranked) * ratio))]):
                    file.seek(start)
                    record = json.loads(file.readline())
                    steps, question = record["steps_with_score"], record["question_orig"]
                    process = "\n\n".join(f"{step['step']}<prm>" for step in steps)
                    asked = {"from": "human", "value": f"Question: {question}\nProcess: {process}"}
                    labels = {"from": "gpt", "value": [float(step["score"] > 0) for step in steps]}
                    example = {"image": record["image"], "conversations": [asked, labels]}
                    out.write(json.dumps(example, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
