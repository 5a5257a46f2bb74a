"""Criteria: how much a channel matters."""
