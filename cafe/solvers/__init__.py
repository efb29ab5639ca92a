"""Array-in, array-out solvers that methods call."""
