"""The trainer: embed, build, train, evaluate, publish."""
