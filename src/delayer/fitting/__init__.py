"""Closed-form solutions from what was gathered, and what gathers it along a network that is being cut."""
