"""Reinforcement learning: problems and their order, rollouts, rewards, advantages, the loss, pass@k."""
