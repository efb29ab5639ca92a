"""Reports: the rows of a comparison as a table, a figure, and one page that holds both."""
