"""Where models come from, the projector, the speech language model and its readouts."""
