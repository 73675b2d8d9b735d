"""Callbacks for other libraries' training loops; each needs its library, which is imported with it alone."""
