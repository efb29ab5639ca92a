"""What fitted methods say of features, in NumPy alone: neither scikit-learn nor torch is needed to predict."""
