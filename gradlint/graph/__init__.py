"""What a model is: its operations, its parameters with their init laws, and the signal through them."""
