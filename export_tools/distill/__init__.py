"""From captured answers of a frontier to a training set and the recipe of a student."""
