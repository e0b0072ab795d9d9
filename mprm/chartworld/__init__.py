"""A small visual-reasoning world: charts, questions, a stochastic solver, Monte-Carlo annotation, tiny backbones."""
