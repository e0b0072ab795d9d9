"""Programs for those who work on the project; nothing in the package needs them."""
