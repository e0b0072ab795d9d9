"""Measures of step scores, of judges and of best-of-N, with their intervals; numpy only."""
