"""Seeing it run: metrics and alerts, audit trail, lineage, data quality, logs. Each part is a module of its own."""
