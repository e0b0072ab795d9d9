"""Reasoning reward models, called judges: they see a question and two answers, reason, and say which is better."""
