"""Where activations sit in a network, a module of its own for each, and what is counted of them."""
