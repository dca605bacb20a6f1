"""Screens and character output: backends of devices."""
