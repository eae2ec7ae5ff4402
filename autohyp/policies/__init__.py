"""Pure functions that look at the campaign and return a decision; they execute nothing."""
