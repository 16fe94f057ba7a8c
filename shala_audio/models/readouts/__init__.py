"""Three ways in which a language model states a distribution over labels."""
