"""Reading sound, encoders and the feature cache."""
