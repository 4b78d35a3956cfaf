"""Recipes, data, losses, discriminators, the loop and the scores that make checkpoints."""
