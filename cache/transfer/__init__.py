"""Features from other tools and for other tools, and caches joined."""
