"""The suite. A package of its own, as other packages bring a `tests` too."""
