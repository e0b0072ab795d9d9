"""Process reward models that others have trained, each asked in the words that it was trained with."""
