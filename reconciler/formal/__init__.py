"""Running model checkers and reading what they say."""
