"""One pass over data, and the rows and processes that it is made of; `stats` holds what it fills."""
