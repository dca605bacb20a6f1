"""The CPU as a model: registers and modes, without an engine."""
