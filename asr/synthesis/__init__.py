"""Speech made from texts: training data for words that no recording at hand has."""
