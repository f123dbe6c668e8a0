"""A trained network behind HTTP, for one machine or a trusted network."""
