"""A small visual-reasoning world: charts, questions, a stochastic solver, Monte-Carlo annotation and tiny pretrained backbones."""
