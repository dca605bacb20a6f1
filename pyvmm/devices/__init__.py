"""Devices, one file each; none imports another."""
