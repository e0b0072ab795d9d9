"""From rollouts to rows of tokens: prompts, encoded examples, their order, packing and collation."""
