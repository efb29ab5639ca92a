"""CoOp's prompts with learned context, and the text tower that they go through."""
