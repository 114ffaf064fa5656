"""Probes that training frameworks run on their first batch; each module needs its framework."""
