"""Beam jobs as Flex templates of Dataflow."""
