"""What a run leaves on disk: its folder, the records of its stages, journals, and the states of a sweep."""
