"""Best-of-N: which of many candidate solutions is chosen by their step scores, and how often it is right."""
