"""How data sets lie on the disk: what several sources and data sets share."""
