"""Class names and templates to prompts, and text features to class embeddings."""

from cafe.prompts.class_names import read_class_names
from cafe.prompts.embeddings import class_embeddings, mean_of_prompts
from cafe.prompts.filling import GENERIC_TEMPLATE, fill, has_slot, prompts
from cafe.prompts.prompt_files import read_prompts, with_templates
from cafe.prompts.template_sets import known_template_sets, read_templates

__all__ = [
    "GENERIC_TEMPLATE",
    "class_embeddings",
    "fill",
    "has_slot",
    "known_template_sets",
    "mean_of_prompts",
    "prompts",
    "read_class_names",
    "read_prompts",
    "read_templates",
    "with_templates",
]
