"""The built-in kinds, a row each, by group. A row says what discovery shows; rules are elsewhere."""
