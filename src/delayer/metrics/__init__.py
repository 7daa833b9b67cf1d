"""Pure functions from statistics to scores, of blocks and of activations; they never see a network."""
