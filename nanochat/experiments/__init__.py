"""What several runs show together: scaling laws, compute multipliers, noise between seeds, verdicts."""
