"""The trainer: two towers, joint example selection, and the loop that logs every pick."""
