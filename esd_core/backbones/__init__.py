"""One file per model family, each loading it and predicting noise with it."""
