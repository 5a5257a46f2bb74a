"""Decisions about which units go: scores, widths, allocation, plans, latency."""
