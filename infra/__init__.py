"""Around the stages: the command line, rounds, and what runs them elsewhere."""
