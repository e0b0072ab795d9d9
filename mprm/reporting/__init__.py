"""Reads finished run folders and shows what is in them: terminal table, HTML page, comparison, W&B mirror."""
