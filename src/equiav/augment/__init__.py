"""Parametrised transformations of sound and image: one object samples, applies and encodes them."""
