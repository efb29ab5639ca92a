"""Every method is one file here that says its own name in ``METHOD`` and defines one scikit-learn classifier."""

from cafe.methods.many import expected_failed_checks, fit_many, make_method, method_names

__all__ = ["expected_failed_checks", "fit_many", "make_method", "method_names"]
