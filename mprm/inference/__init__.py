"""Everything that runs a model without training it: step scores, entropies, sampling and annotation."""
