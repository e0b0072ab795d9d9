"""Signals of every rollout, the scores that selectors make of them, and the subset that is kept."""
