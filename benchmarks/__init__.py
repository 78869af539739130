"""How fast, against what: one command a question (see benchmarks/README.md)."""
