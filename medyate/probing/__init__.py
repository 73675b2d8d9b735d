"""Runs any model once, on inputs made up from their shapes, and looks at what it does; nothing is changed by it."""
