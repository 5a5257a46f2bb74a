"""How much goes and from where: scores, widths, allocation, plans, latency."""
