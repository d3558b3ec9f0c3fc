"""The pipeline as plain processes on this machine: no Docker, no Java, no PostgreSQL installed before."""
