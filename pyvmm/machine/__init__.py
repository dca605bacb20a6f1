"""Machines: `pc` assembles one, `machine` runs it, `layout` says where everything is."""
