"""What runs a model, and on which device."""
