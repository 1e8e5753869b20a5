"""The shared language: what lies on disk between two stages, and nothing else.

Every module here describes one artifact or one way of naming things; none of them knows who writes or
reads it. `schemas` imports nothing of ours, so that any stage, and any other program, can depend on it.
"""
