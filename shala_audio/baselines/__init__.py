"""What a user would pick instead: classifiers on the frozen encoder."""
