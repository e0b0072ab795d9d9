"""What mprm's speed is held to on the CPU, in one run: every ratio is measured side by side with the published style,
with stock transformers, or with a plain loop. The other work of the machine falls on both sides; still, run it on a
quiet one.

    python tests/benchmarks/ratios.py              about ten minutes on two cores
    python tests/benchmarks/ratios.py --quick      the same with few repeats, to see that it runs

tiny: chartworld and the backbones that mprm ships with. small: random weights in the proportions of Qwen2.5-VL-3B, an
image of 256 tokens, solutions of 100 tokens on the average (shapes.py).
"""

import argparse

import score_candidates
import select_corpus
import train_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    # First: its processes begin with the memory of this one.
    share = select_corpus.measure(5_000 if quick else 56_000, 1 if quick else 3)
    lines = [("first selection", "of parsing each line twice", share, "<= 0.6")]
    for size, steps in (("tiny", 16), ("small", 4)):
        words = ["--size", size, "--arms", "ours,published", "--steps", str(2 if quick else steps)]
        for title, ratio in train_step.measure(train_step.arguments(words)).items():
            together = title.endswith((", shuffled_questions", ", 4 of a question"))
            lines.append((f"training, {title}", "times published", ratio, ">= 3" if together else ">= 1.5"))
    for size, questions in (("tiny", 8), ("small", 2)):
        words = ["--size", size, "--questions", str(2 if quick else questions), "--rounds", "1" if quick else "3"]
        words += ["--arms", "ours_shared,stock_alone"]
        for title, scored in score_candidates.measure(score_candidates.arguments(words)).items():
            lines.append((f"scoring, {title}", "times stock", scored, ">= 5"))
    print(f"\n{'':>64} {'measured':>9} {'wanted':>7}")
    for what, against, value, wanted in lines:
        print(f"{what:>64} {value:9.2f} {wanted:>7} {against}")


if __name__ == "__main__":
    main()
