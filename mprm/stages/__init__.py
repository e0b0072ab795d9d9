"""The tasks: each reads files and writes files, and imports the heavy libraries it needs."""
