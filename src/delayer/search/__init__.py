"""What to cut: scores and rankings, budgets, exact and local search, judging by the real network, repair, merges."""
