"""The small base model of demo and tests: its texts (`corpus`), its training, and what it can read (`measure`)."""
