"""Live text towers, for methods that learn prompts."""
