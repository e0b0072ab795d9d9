"""A policy model: it writes solutions, and continues them for Monte-Carlo annotation."""
