"""The course: checks of the exercises."""
