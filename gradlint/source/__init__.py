"""Source text to facts: what a training script says, read without running it and without torch."""
